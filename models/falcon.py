"""Falcon's attention: transformers 4 and 5 compute it by themselves, and give every query head a copy of K and V."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

from models.attention import paged_attention


def attention(
    module: Any, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
) -> tuple[Tensor, None]:
    """In place of `FalconAttention.forward`, for hidden states [B, T, D]; the pool holds each K/V head once."""
    rows = hidden_states.shape[:2]
    query, key, value = (
        part.transpose(1, 2) for part in _split(module, module.query_key_value(hidden_states))
    )
    rotate: Any = apply_rotary_pos_emb
    query, key = rotate(query, key, *position_embeddings)
    out, _ = paged_attention(module, query, key, value, None, scaling=module.inv_norm_factor)
    return module.dense(out.reshape(*rows, -1)), None


def _split(module: Any, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query [B, T, H, D], key and value [B, T, Hk, D] of the fused projection, in each generation's own order."""
    rows, dim = fused.shape[:2], module.head_dim
    if module.new_decoder_architecture:  # per K/V head: its query heads, then its key, then its value
        grouped = fused.view(*rows, -1, module.num_heads // module.num_kv_heads + 2, dim)
        return grouped[..., :-2, :].flatten(2, 3), grouped[..., -2, :], grouped[..., -1, :]
    if module.multi_query:
        heads = fused.view(*rows, -1, dim)
        return heads[..., :-2, :], heads[..., -2:-1, :], heads[..., -1:, :]
    heads = fused.view(*rows, -1, 3, dim)
    return heads[..., 0, :], heads[..., 1, :], heads[..., 2, :]


def refusal(config: Any) -> str:
    """Why this Falcon cannot be served; empty if it can."""
    if config.alibi:
        return "its ALiBi positions are not supported; use a Falcon with rotary ones (7b, 40b, 180b)"
    return ""
