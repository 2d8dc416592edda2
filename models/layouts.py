"""How a step's queries read the paged pools: packed (prefill), gather and flat (decode).

Each view is made of integer tensors and answers one call, `attend`. Nothing here depends on a value, only on shapes.
A pool is [num_blocks * block_size, heads, dim]; queries are [B, H, T, D] as transformers has them, and the answer is
[B, H, T, Dv]. Query heads that share a K/V head stand together in the query axis: K and V are never repeated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import PLAIN, Kernels

warnings.filterwarnings("ignore", "index_reduce.. is in beta")
"""It is the one reduction by index that is known to run on Gaudi by itself."""

Expand = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Makes each head's keys [S, H, D] and values [S, H, Dv] of what the pool keeps, [S, 1, latent]."""


@dataclass(frozen=True, slots=True)
class Pools:
    """One layer's K and V, as its attention reads them."""

    keys: Tensor
    """[slots, heads, D]."""
    values: Tensor | None
    """[slots, heads, Dv]; None: the values are the first `value_dim` numbers of the keys (a latent cache)."""
    value_dim: int
    expand: Expand | None = None
    """Of a latent cache, in a packed step alone: query heads have keys and values of their own."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What a layer does to its scores besides the causal mask."""

    scale: float
    window: int | None = None
    """A query sees this many positions, its own included; None: all before it."""
    softcap: float | None = None
    sinks: Tensor | None = None
    """[H]: a score per query head that takes part in the softmax and in nothing else (GPT-OSS)."""


class View(Protocol):
    """One step's way to read the pools."""

    def attend(self, query: Tensor, pools: Pools, scoring: Scoring) -> Tensor:
        """Softmax attention of query [B, H, T, D] over what each of its tokens may see: [B, H, T, Dv]."""


def _blocks(pools: Pools, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Keys and values of the blocks in index [N]: [N, size, heads, D] and [N, size, heads, Dv]."""
    heads = pools.keys.shape[1]
    keys = pools.keys.view(-1, size, heads, pools.keys.shape[2]).index_select(0, index)
    if pools.values is None:
        return keys, keys[..., : pools.value_dim]
    return keys, pools.values.view(-1, size, heads, pools.value_dim).index_select(0, index)


def _softmax_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scoring: Scoring, sinks: Tensor | None
) -> Tensor:
    """Attention of query [P, G, T, D] over keys and values [P, G or 1, S, …]; mask and sinks broadcast."""
    if scoring.softcap is None and sinks is None:
        keys, values = (each.expand(-1, query.shape[1], -1, -1) for each in (keys, values))
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scoring.scale)
    scores = _shared_product(query * scoring.scale, keys.transpose(2, 3))
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:3], 1)], -1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return _shared_product(weights[..., : keys.shape[2]], values)


def _shared_product(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows [P, G, T, I] times matrix [P, G or 1, I, O]: one that a group shares is multiplied once, not repeated."""
    pairs, group, length, _ = rows.shape
    if matrix.shape[1] == group:
        return torch.matmul(rows, matrix)
    folded = rows.reshape(pairs, 1, group * length, -1)
    return torch.matmul(folded, matrix).view(pairs, group, length, -1)


def _hidden(key: Tensor, query: Tensor, window: int | None) -> Tensor:
    """Where a key at that position is out of a query's sight; the two broadcast."""
    hidden = key > query
    return hidden if window is None else hidden | (key <= query - window)


def _mask_of(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers to add to the scores: attention would make them anew in every layer from booleans."""
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, -torch.inf)


@dataclass(frozen=True, slots=True)
class Packed:
    """Chunks of several sequences one after another in one row; a token sees its own sequence's blocks alone."""

    positions: Tensor
    """[T] int64: each token's place in its sequence."""
    owners: Tensor
    """[T] int64: which of the packed sequences it is of."""
    blocks: Tensor
    """[N] int64: the blocks of all of them, one sequence after another."""
    block_owners: Tensor
    """[N] int64: whose block; of padding a number that no token has."""
    firsts: Tensor
    """[N] int64: the position of the block's first token."""
    block_size: int
    kernels: Kernels = PLAIN
    masks: dict[int | None, Tensor] = field(init=False, default_factory=dict)
    """By window: built once a step, used by every layer alike."""

    def attend(self, query: Tensor, pools: Pools, scoring: Scoring) -> Tensor:
        """One attention of all tokens over all blocks, a block-diagonal mask between the sequences."""
        keys, values = (each.flatten(0, 1) for each in _blocks(pools, self.blocks, self.block_size))
        if pools.expand is not None:
            keys, values = pools.expand(keys)
        keys, values = (each.transpose(0, 1)[None] for each in (keys, values))
        mask = self._mask(scoring.window, query.dtype)
        if scoring.softcap is None and scoring.sinks is None:
            return self.kernels.attention(query, keys, values, mask, scoring.scale)
        kv_heads = keys.shape[1]
        grouped = query[0].view(kv_heads, -1, *query.shape[2:])
        sinks = None if scoring.sinks is None else scoring.sinks.view(kv_heads, -1, 1, 1)
        keys, values = (each[0][:, None] for each in (keys, values))
        return _softmax_attention(grouped, keys, values, mask, scoring, sinks).flatten(0, 1)[None]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[1, 1, T, S]."""
        if (mask := self.masks.get(window)) is None:
            offset = torch.arange(self.block_size, device=self.blocks.device)
            key = (self.firsts[:, None] + offset).reshape(-1)
            owner = self.block_owners[:, None].expand(-1, self.block_size).reshape(-1)
            strange = owner[None, :] != self.owners[:, None]
            hidden = strange | _hidden(key[None, :], self.positions[:, None], window)
            mask = _mask_of(hidden, dtype)[None, None]
            self.masks[window] = mask
        return mask


@dataclass(frozen=True, slots=True)
class Gather:
    """One token per row, its blocks listed in a table: each row's context side by side, as long as the longest."""

    positions: Tensor
    """[B] int64."""
    tables: Tensor
    """[B, N] int64: 0, the scratch block, beyond a row's end."""
    block_size: int
    masks: dict[int | None, Tensor] = field(init=False, default_factory=dict)

    def attend(self, query: Tensor, pools: Pools, scoring: Scoring) -> Tensor:
        """Gather each row's keys and values, [B, Hk, S, D], and attend to them."""
        batch, heads, _, dim = query.shape
        length = self.tables.shape[1] * self.block_size
        keys, values = (
            each.view(batch, length, each.shape[2], each.shape[3]).transpose(1, 2)
            for each in _blocks(pools, self.tables.reshape(-1), self.block_size)
        )
        kv_heads = keys.shape[1]
        grouped = query.reshape(batch, kv_heads, heads // kv_heads, dim)
        sinks = None if scoring.sinks is None else scoring.sinks.view(1, kv_heads, -1, 1)
        mask = self._mask(scoring.window, length, query.dtype).expand(-1, -1, heads // kv_heads, -1)
        out = _softmax_attention(grouped, keys, values, mask, scoring, sinks)
        return out.reshape(batch, heads, 1, pools.value_dim)

    def _mask(self, window: int | None, length: int, dtype: torch.dtype) -> Tensor:
        """[B, 1, 1, S]."""
        if (mask := self.masks.get(window)) is None:
            key = torch.arange(length, device=self.tables.device)[None, :]
            mask = _mask_of(_hidden(key, self.positions[:, None], window), dtype)[:, None, None]
            self.masks[window] = mask
        return mask


@dataclass(frozen=True, slots=True)
class Flat:
    """One token per row, the blocks of all rows in one list: the cost follows the blocks in use.

    Each block is attended to by itself; its part is weighted by how its maximum and its sum stand to its row's. All
    products are matrix products with a one-hot map between blocks and rows, as Gaudi's matrix engine likes it.
    """

    positions: Tensor
    """[B] int64."""
    blocks: Tensor
    """[N] int64."""
    block_owners: Tensor
    """[N] int64: the row of the block; of padding a number >= B."""
    firsts: Tensor
    """[N] int64: the position of the block's first token."""
    block_size: int
    maps: dict[torch.dtype, Tensor] = field(init=False, default_factory=dict)
    """[N, B]: 1 where the block is the row's; a row of zeros for padding."""
    masks: dict[int | None, Tensor] = field(init=False, default_factory=dict)

    def attend(self, query: Tensor, pools: Pools, scoring: Scoring) -> Tensor:
        """Softmax in two levels: within each block, then over the blocks of a row."""
        batch, heads, _, dim = query.shape
        keys, values = _blocks(pools, self.blocks, self.block_size)
        count, _, kv_heads, _ = keys.shape
        group = heads // kv_heads
        wide = torch.promote_types(query.dtype, torch.float32)
        rows, wide_rows = self._map(batch, query.dtype), self._map(batch, wide)
        folded = torch.matmul(rows, (query * scoring.scale).reshape(batch, heads * dim))
        scores = torch.matmul(folded.view(count, kv_heads, group, dim), keys.permute(0, 2, 3, 1)).to(wide)
        if scoring.softcap is not None:
            scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
        scores = scores + self._mask(scoring.window, wide)
        highest = self._highest(scores.amax(-1).view(count, heads), batch, scoring.sinks)
        weights = torch.exp(scores - torch.matmul(wide_rows, highest).view(count, kv_heads, group, 1))
        total = torch.matmul(wide_rows.t(), weights.sum(-1).view(count, heads))
        if scoring.sinks is not None:
            total = total + torch.exp(scoring.sinks.to(wide) - highest)
        part = torch.matmul(weights.to(query.dtype), values.permute(0, 2, 1, 3))
        out = torch.matmul(wide_rows.t(), part.reshape(count, heads * pools.value_dim).to(wide))
        # A padding row has no block: its sum is 0, and what it gives is nobody's, but must be a number.
        out = out.view(batch, heads, pools.value_dim) / total.clamp_min(torch.finfo(wide).tiny)[..., None]
        return out.to(query.dtype)[:, :, None]

    def _highest(self, of_block: Tensor, batch: int, sinks: Tensor | None) -> Tensor:
        """The highest score of each row [B, H] from those of its blocks [N, H]; finite also for padding rows."""
        lowest = torch.finfo(of_block.dtype).min / 2
        start = of_block.new_full((batch + 1, of_block.shape[1]), lowest)
        index = self.block_owners.clamp_max(batch)
        # A block may be wholly out of its row's window: -inf, which must not reach the one-hot products as -inf * 0.
        highest = start.index_reduce_(0, index, of_block.clamp_min(lowest), "amax")[:batch]
        return highest if sinks is None else torch.maximum(highest, sinks.to(highest.dtype))

    def _map(self, batch: int, dtype: torch.dtype) -> Tensor:
        if (rows := self.maps.get(dtype)) is None:
            row = torch.arange(batch, device=self.blocks.device)
            rows = (self.block_owners[:, None] == row).to(dtype)
            self.maps[dtype] = rows
        return rows

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[N, 1, 1, block_size]; padding sees its whole block, so that no maximum is of nothing."""
        if (mask := self.masks.get(window)) is None:
            key = self.firsts[:, None] + torch.arange(self.block_size, device=self.blocks.device)
            last = len(self.positions) - 1
            query = self.positions.index_select(0, self.block_owners.clamp_max(last))[:, None]
            padding = (self.block_owners > last)[:, None]
            mask = _mask_of(_hidden(key, query, window) & ~padding, dtype)[:, None, None]
            self.masks[window] = mask
        return mask
