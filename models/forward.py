"""The forward of one step as a planned function: four integer tensors in, each row's next logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.context import FORWARD
from models.plan import Bucket
from models.step import Row


class Forward(nn.Module):
    """A transformers model behind our attention. Takes tensors only and sets the context itself: a full graph."""

    def __init__(self, model: Any, block_size: int) -> None:
        super().__init__()
        self.model = model
        self.block_size = block_size
        head = model.get_output_embeddings()
        self._hook = head.register_forward_pre_hook(_keep_last)

    def forward(self, ids: Tensor, start: Tensor, length: Tensor, tables: Tensor) -> tuple[Tensor]:
        """Logits [B, V] after the last of each row's `length` tokens in ids [B, T]; tables is [B, N], all int64.

        Rows of length 0 are padding: they touch the scratch block alone, and their logits mean nothing.
        """
        positions = FORWARD.enter(tables, start, length, ids.shape[1], self.block_size)
        logits = self.model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, -1]
        FORWARD.clear()
        return (logits,)

    def detach(self) -> None:
        """Give the model back as it was."""
        self._hook.remove()


def _keep_last(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
    """Each row's last token only, [B, 1, D], before the vocabulary multiplies it."""
    last, hidden = FORWARD.last, args[0]
    if last is None:
        return None
    return (hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1])),)


def inputs_of(rows: Sequence[Row], bucket: Bucket) -> dict[str, Tensor]:
    """The forward's inputs for the rows of a step, padded to the bucket; ValueError if a row does not fit."""
    for row in rows:
        if len(row.ids) > bucket.query or len(row.blocks) > bucket.blocks or len(rows) > bucket.batch:
            raise ValueError(
                f"{len(rows)} rows, {len(row.ids)} tokens, {len(row.blocks)} blocks do not fit {bucket}"
            )
    idle = bucket.batch - len(rows)
    return {
        "ids": _matrix([row.ids for row in rows], bucket.batch, bucket.query),
        "start": torch.tensor([*(row.start for row in rows), *[0] * idle]),
        "length": torch.tensor([*(len(row.ids) for row in rows), *[0] * idle]),
        "tables": _matrix([row.blocks for row in rows], bucket.batch, bucket.blocks),
    }


def _matrix(rows: Sequence[Sequence[int]], height: int, width: int) -> Tensor:
    """The rows padded with 0, [height, width] int64."""
    lists = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(lists + [[0] * width] * (height - len(rows)), dtype=torch.int64)
