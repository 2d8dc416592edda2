"""The forward of one step as planned functions of integer tensors, one for each phase; logits out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.captured import Function
from models.context import FORWARD
from models.kernels import PLAIN, Kernels
from models.layouts import Flat, Gather, Packed, View
from models.plan import Bucket, Layout, Limits
from models.step import Row

Ints = np.ndarray[Any, np.dtype[np.int64]]
Arrays = dict[str, Ints]


class Forward(nn.Module):
    """A transformers model behind our attention. Its phases take tensors alone and set the context: full graphs."""

    def __init__(
        self, model: Any, tokens: Tensor, block_size: int, layout: Layout, kernels: Kernels = PLAIN
    ) -> None:
        super().__init__()
        self.model = model
        self.tokens = tokens
        """[slots + 1] int64: the token that each slot sampled last; the sampler writes it. The last is scratch."""
        self.block_size = block_size
        self.layout = layout
        self.kernels = kernels
        self._hook = model.get_output_embeddings().register_forward_pre_hook(_keep_last)

    def planned(self, bucket: Bucket) -> Function:
        """The function that the bucket's program captures."""
        if bucket.phase == "decode":
            return self.flat if self.layout == "flat" else self.gather
        return self.score if bucket.phase == "score" else self.prefill

    def prefill(
        self, ids: Tensor, positions: Tensor, slots: Tensor, owners: Tensor, last: Tensor,
        blocks: Tensor, block_owners: Tensor, firsts: Tensor,
    ) -> tuple[Tensor]:  # fmt: skip
        """Logits [R, V] after each packed chunk, whose last token is ids[last], of ids [T]."""
        view = Packed(positions, owners, blocks, block_owners, firsts, self.block_size, self.kernels)
        return (self._run(ids[None], positions[None], slots, view, last)[0],)

    def score(
        self, ids: Tensor, positions: Tensor, slots: Tensor, owners: Tensor, last: Tensor,
        blocks: Tensor, block_owners: Tensor, firsts: Tensor, targets: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Logits [1, V] after the chunk, and the log-probability [T] of each of its tokens' targets [T]."""
        view = Packed(positions, owners, blocks, block_owners, firsts, self.block_size, self.kernels)
        logits = self._run(ids[None], positions[None], slots, view)[0]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores = wide.gather(1, targets[:, None])[:, 0] - wide.logsumexp(-1)
        return logits.index_select(0, last), scores

    def gather(self, rows: Tensor, positions: Tensor, slots: Tensor, tables: Tensor) -> tuple[Tensor]:
        """Logits [B, V] after each row's last token, its blocks in tables [B, N]."""
        return self._decode(rows, positions, slots, Gather(positions, tables, self.block_size))

    def flat(
        self,
        rows: Tensor,
        positions: Tensor,
        slots: Tensor,
        blocks: Tensor,
        block_owners: Tensor,
        firsts: Tensor,
    ) -> tuple[Tensor]:
        """Logits [B, V] after each row's last token, the blocks of all rows in one list."""
        view = Flat(positions, blocks, block_owners, firsts, self.block_size)
        return self._decode(rows, positions, slots, view)

    def detach(self) -> None:
        """Give the model back as it was."""
        self._hook.remove()

    def _decode(self, rows: Tensor, positions: Tensor, slots: Tensor, view: View) -> tuple[Tensor]:
        ids = self.tokens.index_select(0, rows)
        return (self._run(ids[:, None], positions[:, None], slots, view)[:, 0],)

    def _run(
        self, ids: Tensor, positions: Tensor, slots: Tensor, view: View, last: Tensor | None = None
    ) -> Tensor:
        FORWARD.enter(slots, view, last)
        logits: Tensor = self.model(input_ids=ids, position_ids=positions, use_cache=False).logits
        FORWARD.clear()
        return logits


def _keep_last(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
    """The wanted tokens of the packed row only, [1, R, D], before the vocabulary multiplies them."""
    return None if FORWARD.last is None else (args[0].index_select(1, FORWARD.last),)


IDLE = Row(slot=-1, ids=(0,), start=0, blocks=(0,), sample=False, position=0)
"""What a prefill of nobody runs: the scratch block's first token."""


def inputs_of(rows: Sequence[Row], bucket: Bucket, limits: Limits) -> dict[str, Tensor]:
    """The forward's inputs for the rows of a step, padded to the bucket; ValueError if they do not fit."""
    if bucket.phase != "decode":
        arrays = _packed(rows or (IDLE,), bucket, limits.block_size)
    elif limits.layout == "flat":
        arrays = _flat(rows, bucket, limits)
    else:
        arrays = _gather(rows, bucket, limits)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _packed(rows: Sequence[Row], bucket: Bucket, size: int) -> Arrays:
    """The chunks one after another. Padding tokens stand at the first row's position 0, which they can always see."""
    tokens, blocks = sum(len(row.ids) for row in rows), sum(len(row.blocks) for row in rows)
    _check(bucket, len(rows), tokens, blocks)
    arrays = {name: np.zeros(bucket.query, np.int64) for name in ("ids", "positions", "owners")}
    arrays["slots"] = np.arange(bucket.query) % size
    arrays["last"] = np.zeros(bucket.batch, np.int64)
    if bucket.phase == "score":
        arrays["targets"] = np.zeros(bucket.query, np.int64)
    arrays |= _listed(rows, bucket, size)
    at = 0
    for number, row in enumerate(rows):
        part = slice(at, at + len(row.ids))
        table = np.asarray(row.blocks, np.int64)
        positions = np.arange(row.start, row.start + len(row.ids))
        arrays["ids"][part] = row.ids
        arrays["positions"][part] = positions
        arrays["owners"][part] = number
        arrays["slots"][part] = table[positions // size] * size + positions % size
        arrays["last"][number] = part.stop - 1
        if bucket.phase == "score":
            arrays["targets"][at : at + len(row.targets)] = row.targets
        at = part.stop
    return arrays


def _gather(rows: Sequence[Row], bucket: Bucket, limits: Limits) -> Arrays:
    joined, counts = _joined(rows)
    _check(bucket, len(rows), len(rows), int(counts.max(initial=0)))
    tables = np.zeros((bucket.batch, bucket.blocks), np.int64)
    tables[: len(rows)][np.arange(bucket.blocks) < counts[:, None]] = joined
    return _tokens(rows, bucket, limits) | {"tables": tables}


def _flat(rows: Sequence[Row], bucket: Bucket, limits: Limits) -> Arrays:
    _check(bucket, len(rows), len(rows), sum(len(row.blocks) for row in rows))
    return _tokens(rows, bucket, limits) | _listed(rows, bucket, limits.block_size)


def _tokens(rows: Sequence[Row], bucket: Bucket, limits: Limits) -> Arrays:
    """One token per row, read from its slot. Padding rows read the scratch slot and take turns over its block."""
    if any(row.ids for row in rows):
        raise ValueError("a decode row reads its token from its slot: it has no ids")
    size, count = limits.block_size, len(rows)
    padding = np.arange(bucket.batch) % size
    rows_of = np.full(bucket.batch, limits.slots, np.int64)
    arrays = {"rows": rows_of, "positions": padding, "slots": padding.copy()}
    start = np.fromiter((row.start for row in rows), np.int64, count)
    last = np.fromiter((row.blocks[row.start // size] for row in rows), np.int64, count)
    rows_of[:count] = np.fromiter((row.slot for row in rows), np.int64, count)
    arrays["positions"][:count] = start
    arrays["slots"][:count] = last * size + start % size
    return arrays


def _listed(rows: Sequence[Row], bucket: Bucket, size: int) -> Arrays:
    """The blocks of all rows in one list, whose they are (of padding: nobody's), and where each begins."""
    joined, counts = _joined(rows)
    blocks, firsts = np.zeros((2, bucket.blocks), np.int64)
    owners = np.full(bucket.blocks, bucket.batch)
    total = len(joined)
    blocks[:total] = joined
    owners[:total] = np.repeat(np.arange(len(rows)), counts)
    firsts[:total] = size * (np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts))
    return {"blocks": blocks, "block_owners": owners, "firsts": firsts}


def _joined(rows: Sequence[Row]) -> tuple[Ints, Ints]:
    """All block tables one after another, and the length of each; a loop over blocks would cost more than the step."""
    joined = array("q")
    for row in rows:
        joined.extend(row.blocks)
    counts = np.fromiter((len(row.blocks) for row in rows), np.int64, len(rows))
    return np.frombuffer(joined, np.int64) if joined else np.zeros(0, np.int64), counts


def _check(bucket: Bucket, rows: int, tokens: int, blocks: int) -> None:
    if rows > bucket.batch or not bucket.covers(tokens, blocks):
        raise ValueError(f"{rows} rows, {tokens} tokens, {blocks} blocks do not fit {bucket}")
