"""Attention and rotary positions in one kernel each; inference alone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from ....stand_in import reference
from ....stand_in.settings import LAST_LAZY, SETTINGS

_ops: Any = torch.ops


class RotaryPosEmbeddingMode(IntEnum):
    """Which numbers are a pair."""

    BLOCKWISE = reference.BLOCKWISE
    PAIRWISE = reference.PAIRWISE


def apply_rotary_pos_emb(
    p: Tensor,
    cos: Tensor,
    sin: Tensor,
    position_ids: Tensor | None = None,
    offset: int = 0,
    mode: RotaryPosEmbeddingMode = RotaryPosEmbeddingMode.BLOCKWISE,
) -> Tensor:
    """p turned; cosine first here, sine first in the op."""
    out: Tensor = _ops.hpu.rotary_pos_embedding(p, sin, cos, position_ids, offset, int(mode))
    return out


class RotaryPosEmbeddingHelperV1(torch.autograd.Function):
    """By offset."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, cos: Tensor, sin: Tensor, offset: int) -> Tensor:
        """Rows offset, offset + 1, … of the tables."""
        return apply_rotary_pos_emb(p, cos, sin, None, offset)


class RotaryPosEmbeddingHelperV2(torch.autograd.Function):
    """By position ids."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None) -> Tensor:
        """Rows position_ids of the tables."""
        return apply_rotary_pos_emb(p, cos, sin, position_ids)


class RotaryPosEmbeddingHelperV3(torch.autograd.Function):
    """By ChatGLM's cache, which nothing here has."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, rope_cache: Tensor) -> Tensor:
        """Not emulated."""
        raise NotImplementedError("the stand-in does not emulate ChatGLM's rotary cache")


class CTCLoss(torch.autograd.Function):
    """Of speech models; optimum-habana wants the name."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """Not emulated."""
        raise NotImplementedError("the stand-in does not emulate CTCLoss")


class _FusedSDPA13(torch.autograd.Function):
    """As 1.22 has it: 13 arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        softmax_mode: str = "None",
        recompute_mode: bool | None = None,
        valid_seq_len: Tensor | None = None,
        seq_padding_type: str = "left",
        return_dropout_mask: bool = False,
        return_attn_probs: bool = False,
    ) -> Tensor:
        """Attention over [B, heads, S, D]."""
        reference.check(not (return_dropout_mask or return_attn_probs), "only the output can be had")
        return _attend(
            query, key, value, attn_mask, dropout_p, scale, is_causal, False, softmax_mode, valid_seq_len,
            seq_padding_type,
        )  # fmt: skip


class _FusedSDPA15(torch.autograd.Function):
    """As 1.24 has it: a window and sinks besides."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        softmax_mode: str = "None",
        recompute_mode: bool | None = None,
        valid_seq_len: Tensor | None = None,
        seq_padding_type: str = "left",
        return_dropout_mask: bool = False,
        return_attn_probs: bool = False,
        window_size: Sequence[int] = (-1, -1),
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Attention over [B, heads, S, D]."""
        reference.check(not (return_dropout_mask or return_attn_probs), "only the output can be had")
        more = () if tuple(window_size) == (-1, -1) and sinks is None else (list(window_size), sinks)
        return _attend(
            query, key, value, attn_mask, dropout_p, scale, is_causal, False, softmax_mode, valid_seq_len,
            seq_padding_type, *more,
        )  # fmt: skip


def _attend(*args: Any) -> Tensor:
    op = _ops.hpu.sdpa_recomp_fwd if len(args) == 11 else _ops.hpu.sdpa_windowed_fwd
    out: Tensor = op(*args)[0]
    return out


FusedSDPA = _FusedSDPA13 if SETTINGS.release <= LAST_LAZY else _FusedSDPA15
FusedSDPA.__name__ = FusedSDPA.__qualname__ = "FusedSDPA"
