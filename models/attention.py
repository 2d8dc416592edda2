"""Paged attention in the gather layout, called by transformers' own model code through its AttentionInterface.

One path serves decode, prefill and chunked prefill: write this step's K/V at its slots, read each row's blocks
through its table, mask by integer positions. Nothing here depends on a value, only on shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from models.cache import LayerShape
from models.context import FORWARD

NAME = "sagrada_paged"
"""Our name in transformers' registry. It is left out of the mask registry: transformers then builds no mask."""

_probe: list[tuple[nn.Module, LayerShape]] | None = None


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    value_dim: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend query [B, H, T, D] to the pool, after adding key and value [B, Hk, T, D]: [B, T, H, Dv].

    Without a value, each key's first `value_dim` numbers are its value. `s_aux` [H] holds the heads' sinks.
    """
    if _probe is not None:
        width = value_dim if value is None else value.shape[3]
        _probe.append((module, LayerShape(key.shape[1], key.shape[3], 0 if value is None else width)))
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], width), None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window is not None else getattr(module, "sliding_window", None)
    layer: Any = module
    keys = _store_and_gather(layer.k_cache, key)
    values = keys[..., :value_dim] if value is None else _store_and_gather(layer.v_cache, value)
    out = _attend(query, keys, values, scale, window, softcap, s_aux)
    return out.transpose(1, 2).contiguous(), None


def _store_and_gather(pool: Tensor, new: Tensor) -> Tensor:
    """Write the step's keys or values [B, Hk, T, D] into a pool; give back each row's whole context, [B, Hk, S, D]."""
    slots, tables = FORWARD.slots, FORWARD.tables
    assert slots is not None and tables is not None  # the Step entered the context
    batch, blocks = tables.shape
    size = FORWARD.block_size
    heads, dim = new.shape[1], new.shape[3]
    pool.index_copy_(0, slots, new.transpose(1, 2).reshape(-1, heads, dim))
    paged = pool.view(-1, size, heads, dim).index_select(0, tables.reshape(-1))
    return paged.view(batch, blocks * size, heads, dim).transpose(1, 2)


def _mask(window: int | None, keys: int, group: int, dtype: torch.dtype) -> Tensor:
    """What to add to the scores, [B, 1, G * T, S]: 0 for the keys at or before a query and in its window, else -inf.

    Made of numbers, because attention would make them anew in every layer from one of booleans.
    """
    mask = FORWARD.masks.get((window, group))
    if mask is None:
        positions = FORWARD.positions
        assert positions is not None  # the Step entered the context
        key = torch.arange(keys, device=positions.device)[None, None, :]
        at = positions[:, :, None]
        hidden = key > at
        if window is not None:
            hidden = hidden | (key <= at - window)
        mask = torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, -torch.inf)
        mask = mask[:, None].repeat(1, 1, group, 1)
        FORWARD.masks[window, group] = mask
    return mask


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Softmax attention, [B, H, T, Dv]; query heads that share a K/V head stand in its query axis: no copies."""
    batch, heads, length, dim = query.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    folded = query.reshape(batch, kv_heads, group * length, dim)
    mask = _mask(window, keys.shape[2], group, query.dtype)
    if softcap is None and sinks is None:
        out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale)
    else:
        scores = torch.matmul(folded * scale, keys.transpose(2, 3))
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores + mask
        if sinks is not None:
            each = sinks.to(scores.dtype).view(1, kv_heads, group, 1, 1)
            column = each.expand(batch, -1, -1, length, -1).reshape(batch, kv_heads, group * length, 1)
            scores = torch.cat((scores, column), dim=-1)
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=wide)[..., : keys.shape[2]].to(query.dtype)
        out = torch.matmul(weights, values)
    return out.reshape(batch, heads, length, values.shape[3])


@contextmanager
def probing() -> Iterator[list[tuple[nn.Module, LayerShape]]]:
    """Within it attention computes nothing: it lists the modules that call it, with their shapes, in order."""
    global _probe
    calls: list[tuple[nn.Module, LayerShape]] = []
    _probe = calls
    try:
        yield calls
    finally:
        _probe = None


AttentionInterface.register(NAME, paged_attention)
