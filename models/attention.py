"""Paged attention, called by transformers' own model code through its AttentionInterface.

One path serves prefill, chunks and decode: write this step's K/V at its slots, then read through the step's view.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from models.cache import LayerShape
from models.context import FORWARD
from models.layouts import Expand, Pools, Scoring

NAME = "sagrada_paged"
"""Our name in transformers' registry. It is left out of the mask registry: transformers then builds no mask."""

_probe: list[tuple[nn.Module, LayerShape]] | None = None


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend query [B, H, T, D] to the pool, after adding key and value [B, Hk, T, D]: [B, T, H, Dv]."""
    scoring = Scoring(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window if sliding_window is not None else getattr(module, "sliding_window", None),
        softcap=softcap,
        sinks=s_aux if s_aux is not None else getattr(module, "sinks", None),
    )
    out = attend(module, query, key, value, scoring, value.shape[3])
    return out.transpose(1, 2).contiguous(), None


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scoring: Scoring,
    value_dim: int,
    expand: Expand | None = None,
) -> Tensor:
    """Store the step's key and value [B, Hk, T, D] in the layer's pools, and attend: [B, H, T, value_dim].

    Without a value the layer keeps one pool: its values are the first `value_dim` numbers of its keys, or both are
    what `expand` makes of them.
    """
    if _probe is not None:
        shape = LayerShape(key.shape[1], key.shape[3], 0 if value is None else value_dim)
        _probe.append((module, shape))
        return query.new_zeros(*query.shape[:3], value_dim)
    slots, view = FORWARD.slots, FORWARD.view
    assert slots is not None and view is not None  # the Step entered the context
    _store(module.k_cache, slots, key)
    if value is not None:
        _store(module.v_cache, slots, value)
    pools = Pools(module.k_cache, None if value is None else module.v_cache, value_dim, expand)
    return view.attend(query, pools, scoring)


def _store(pool: Tensor, slots: Tensor, new: Tensor) -> None:
    """Write new [B, Hk, T, D] at slots [B * T] of the pool [slots, Hk, D]."""
    pool.index_copy_(0, slots, new.transpose(1, 2).reshape(-1, *pool.shape[1:]))


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
