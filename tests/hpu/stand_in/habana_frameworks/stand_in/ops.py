"""`torch.ops.hpu`: the schemas, so that a wrong order fails by type; each op one operation of the card, or of nothing.

Only tensors of the card have them, and the fake ones with which Dynamo traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from .dispatch import run
from .kernels import KEY
from .settings import LAST_LAZY, SETTINGS

_MORE = "" if SETTINGS.release <= LAST_LAZY else ", int chunk_size=0, int total_experts=0"
_ROUTED = "Tensor hidden_states, Tensor expert_routing_table, Tensor router_weights"
_EXPERTS = f"bool permuted_weights, str activation, int experts_min, int experts_max{_MORE}"
_SDPA = (
    "Tensor q, Tensor k, Tensor v, Tensor? attn_mask, float dropout_p, float? scale, bool is_causal, "
    "bool requires_backward, str softmax_mode, Tensor? valid_seq_len, str seq_padding_type"
)
_CAST = "bool stochastic_rounding=False, bool is_amax=False, ScalarType? dtype=None, int[]? scale_shape=None"
_TWO = "(Tensor, Tensor)"

Kernel = Callable[..., Any]


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, scale: float | None, causal: bool,
    backward: bool, mode: str, lengths: Tensor | None, padding: str, window: Sequence[int] = (-1, -1),
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Flash attention's forward."""
    out, highest, inverse = reference.attention(
        q, k, v, mask, p, scale, causal, mode, lengths, padding, window, sinks
    )
    return out, highest, inverse, torch.zeros(1, dtype=torch.int32)


def _sdpa_shapes(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = q.new_empty((*q.shape[:3], 1), dtype=reference.wide(q.dtype))
    return q.new_empty((*q.shape[:3], v.shape[3])), sums, sums.clone(), q.new_empty(1, dtype=torch.int32)


def _norm_shapes(x: Tensor, gamma: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


def _like_first(x: Tensor, *rest: Any, **more: Any) -> Tensor:
    return torch.empty_like(x)


def moe(
    hidden: Tensor, routing: Tensor, weights: Tensor, w1: Sequence[Tensor], w2: Sequence[Tensor],
    w3: Sequence[Tensor], permuted: bool, activation: str, first: int, last: int, *more: int, **named: int,
) -> Tensor:  # fmt: skip
    """w1 is the gate, w2 goes up, w3 down."""
    return reference.experts(hidden, routing, weights, w1, w2, w3, permuted, activation, first, last)


def moe_fused(
    hidden: Tensor, routing: Tensor, weights: Tensor, w12: Sequence[Tensor], w3: Sequence[Tensor],
    permuted: bool, activation: str, first: int, last: int, *more: int, **named: int,
) -> Tensor:  # fmt: skip
    """w12 is the gate and, below it, what goes up."""
    halves = [each.chunk(2, 0 if permuted else 1) for each in w12]
    gate, up = ([half[side] for half in halves] for side in (0, 1))
    return reference.experts(hidden, routing, weights, gate, up, w3, permuted, activation, first, last)


def cast(
    x: Tensor, scale: Any = None, stochastic: bool = False, is_amax: bool = False,
    dtype: torch.dtype | None = None, scale_shape: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """To FP8, with a scale that is a tensor, a number or several."""
    reference.check(not stochastic, "stochastic rounding is for training")
    factor = None if scale is None else torch.as_tensor(scale, dtype=torch.float32)
    return reference.to_fp8(x, factor, dtype, is_amax)


def _cast_shapes(
    x: Tensor, scale: Any = None, stochastic: bool = False, is_amax: bool = False,
    dtype: torch.dtype | None = None, scale_shape: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x, dtype=dtype), x.new_empty((), dtype=torch.float32)


def uncast(
    x: Tensor, scale: Tensor | None, out_dtype: torch.dtype, scale_shape: Sequence[int] | None = None
) -> Tensor:
    """From FP8."""
    return reference.from_fp8(x, scale, out_dtype)


def _uncast_shapes(x: Tensor, scale: Any, out_dtype: torch.dtype, scale_shape: Any = None) -> Tensor:
    return torch.empty_like(x, dtype=out_dtype)


def gemm(
    a: Tensor, transpose_a: bool, b: Tensor, transpose_b: bool, d: Tensor | None, out_dtype: torch.dtype,
    a_scale: Tensor | None = None, b_scale: Tensor | None = None, bias: Tensor | None = None,
    accumulate: bool = False, shape: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """The product of two FP8 matrices."""
    return reference.fp8_gemm(
        a, transpose_a, b, transpose_b, d, out_dtype, a_scale, b_scale, bias, accumulate
    )


def _gemm_shapes(
    a: Tensor, transpose_a: bool, b: Tensor, transpose_b: bool, d: Any, out_dtype: torch.dtype, *rest: Any,
    **more: Any,
) -> Tensor:  # fmt: skip
    rows = a.shape[-1] if transpose_a else a.shape[-2]
    columns = b.shape[-2] if transpose_b else b.shape[-1]
    return a.new_empty((*a.shape[:-2], rows, columns), dtype=out_dtype)


_OPS: dict[str, tuple[str, Kernel, Kernel]] = {
    "sdpa_recomp_fwd": (f"({_SDPA}) -> (Tensor, Tensor, Tensor, Tensor)", sdpa, _sdpa_shapes),
    "sdpa_windowed_fwd": (  # how 1.24 passes these two on is not known
        f"({_SDPA}, int[] window_size, Tensor? sinks) -> (Tensor, Tensor, Tensor, Tensor)", sdpa, _sdpa_shapes,
    ),
    "rms_norm": (f"(Tensor data_in, Tensor gamma, float epsilon) -> {_TWO}", reference.rms_norm, _norm_shapes),
    "rotary_pos_embedding": (
        "(Tensor input, Tensor sin, Tensor cos, Tensor? position_ids, int offset, int mode) -> Tensor",
        reference.rotate, _like_first,
    ),
    "mixture_of_experts": (
        f"({_ROUTED}, Tensor[] w1, Tensor[] w2, Tensor[] w3, {_EXPERTS}) -> Tensor", moe, _like_first,
    ),
    "mixture_of_experts.fused_weights": (
        f"({_ROUTED}, Tensor[] w12, Tensor[] w3, {_EXPERTS}) -> Tensor", moe_fused, _like_first,
    ),
    "cast_to_fp8_v2": (f"(Tensor input, Tensor? scale=None, {_CAST}) -> {_TWO}", cast, _cast_shapes),
    "cast_to_fp8_v2.scalar": (f"(Tensor input, float scale, {_CAST}) -> {_TWO}", cast, _cast_shapes),
    "cast_to_fp8_v2.scalar_list": (f"(Tensor input, float[] scale, {_CAST}) -> {_TWO}", cast, _cast_shapes),
    "cast_from_fp8": (
        "(Tensor input, Tensor? scale, ScalarType out_dtype, int[]? scale_shape=None) -> Tensor",
        uncast, _uncast_shapes,
    ),
    "fp8_gemm_v2": (
        "(Tensor A, bool trans_A, Tensor B, bool trans_B, Tensor? D, ScalarType out_dtype, "
        "Tensor? A_scale_inv=None, Tensor? B_scale_inv=None, Tensor? bias=None, bool accumulate=False, "
        "int[]? B_scale_shape=None) -> Tensor",
        gemm, _gemm_shapes,
    ),
}  # fmt: skip
"""Name → schema, what it computes on the host, and what shapes it gives."""


def define() -> torch.library.Library:
    """Make all of them known; the library must live as long as they do."""
    library = torch.library.Library("hpu", "DEF")
    for name, (schema, kernel, shapes) in _OPS.items():
        library.define(name + schema)
        base, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.hpu, base), overload or "default")
        library.impl(name, _as_one(op, kernel), KEY)
        torch.library.register_fake(f"hpu::{name}", shapes, lib=library)
    return library


def _as_one(op: Any, kernel: Kernel) -> Kernel:
    def call(*args: Any, **kwargs: Any) -> Any:
        return run(op, kernel, args, kwargs)

    return call
