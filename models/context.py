"""The forward context: what a step's attention needs and transformers' keyword arguments do not carry everywhere.

One process-wide object with plain attributes, set inside the traced region of a step: a ContextVar cannot be traced.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ForwardContext:
    """The step that is running, as tensors. The tensors are None between steps."""

    __slots__ = ("block_size", "last", "masks", "positions", "slots", "tables")

    block_size: int
    """Tokens per KV block."""

    slots: Tensor | None
    """[B * T] int64: where each token's K/V goes in the pool; padding goes to scratch block 0."""
    positions: Tensor | None
    """[B, T] int64: each token's place in its sequence."""
    tables: Tensor | None
    """[B, N] int64: the block table of each row; 0 beyond its end."""
    last: Tensor | None
    """[B] int64: the index in [0, T) of each row's last token, whose logits are wanted."""
    masks: dict[tuple[int | None, int], Tensor]
    """This step's masks by (window, query heads per K/V head): built once, used by every layer alike."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the step; nothing may hold its tensors alive."""
        self.slots = self.positions = self.tables = self.last = None
        self.masks = {}
        self.block_size = 0

    def enter(self, tables: Tensor, start: Tensor, length: Tensor, query: int, block_size: int) -> Tensor:
        """Derive the step from its tables [B, N], first positions [B] and token counts [B]; the positions [B, T].

        Padding tokens stand at position 0, where a key is always visible, and write to the scratch block.
        """
        column = torch.arange(query, device=tables.device)[None, :]
        valid = column < length[:, None]
        positions = torch.where(valid, start[:, None] + column, 0)
        block = tables.gather(1, positions // block_size)
        scratch = (column % block_size).expand_as(positions)
        self.slots = torch.where(valid, block * block_size + positions % block_size, scratch).reshape(-1)
        self.positions, self.tables, self.block_size = positions, tables, block_size
        self.last = (length - 1).clamp_min(0)
        self.masks = {}
        return positions


FORWARD = ForwardContext()
"""The one context of this process: a process runs one step at a time."""
