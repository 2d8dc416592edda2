"""Who runs in the next step. Pure integers: slots, blocks, rows; it knows no tensor, no clock and no socket.

A sequence waits, runs (prefill in chunks, then one token per step) and leaves. Blocks are taken on demand; when
they run out the youngest sequence gives up its own and waits again, to prefill prompt and output later. The oldest
never does, and the pool holds any one sequence to its end (`Limits`), so somebody always gets there.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter

from models.blocks import BlockPool
from models.plan import Bucket, Plan
from models.step import Row, Sampled, Step
from worker.sequence import Sequence

_by_age: Callable[[Sequence], int] = attrgetter("age")


class Refused(ValueError):
    """The sequence can never run here; the message says which limit it breaks."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A step, the sequence of each of its rows, and those among them whose slot the runner has yet to open."""

    step: Step
    sequences: tuple[Sequence, ...]
    opened: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """What a step gave: (sequence, its token), and the sequences that reached their end with it."""

    tokens: tuple[tuple[Sequence, Sampled], ...]
    left: tuple[Sequence, ...]


class Scheduler:
    """The engine's slots and blocks, and the sequences that wait for them or hold them."""

    def __init__(self, plan: Plan, eos_ids: Iterable[int]) -> None:
        self.plan, self.limits = plan, plan.limits
        self.pool = BlockPool(self.limits.num_blocks, self.limits.block_size)
        self._eos = frozenset(eos_ids)
        self._slots = list(range(self.limits.slots - 1, -1, -1))
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._admitted = 0
        self._prefilled = False

    @property
    def free_slots(self) -> int:
        """Slots that no sequence holds."""
        return len(self._slots)

    @property
    def busy(self) -> bool:
        """Whether anything is left to run."""
        return bool(self._running or self._waiting)

    def admit(self, sequence: Sequence) -> None:
        """Take the sequence in; Refused, with a sentence, if it could never run to its end."""
        limits, total = self.limits, len(sequence.prompt) + sequence.max_new_tokens
        if not sequence.prompt:
            raise Refused("the prompt has no tokens: give at least one")
        if len(sequence.prompt) > limits.max_input_tokens:
            raise Refused(
                f"the prompt has {len(sequence.prompt)} tokens, this model takes {limits.max_input_tokens}"
            )
        if total > limits.max_total_tokens:
            raise Refused(
                f"{len(sequence.prompt)} prompt tokens and {sequence.max_new_tokens} new ones exceed "
                f"{limits.max_total_tokens} in all: lower max_new_tokens or shorten the prompt"
            )
        if len(sequence.output) >= sequence.max_new_tokens:
            raise Refused(
                f"nothing is left to generate: all {sequence.max_new_tokens} tokens are there already"
            )
        sequence.age, self._admitted = self._admitted, self._admitted + 1
        self._waiting.append(sequence)

    def schedule(self) -> Batch | None:
        """The next step, or None if there is nothing to run.

        Prefill and decode take turns while both have rows: what decodes waits for one chunk at most.
        """
        self._start()
        while self._running:
            prefilling = [s for s in self._running if s.pending > 1]
            decoding = [s for s in self._running if s.pending == 1]
            if prefilling and not (decoding and self._prefilled):
                self._prefilled = True
                return self._prefill(prefilling)
            self._prefilled = False
            if batch := self._decode(decoding):
                return batch
        return None

    def settle(self, batch: Batch, sampled: Iterable[Sampled]) -> Settled:
        """Take in what the step sampled, one entry per row that asked; sequences at their end leave."""
        rows = list(zip(batch.sequences, batch.step.rows, strict=True))
        tokens = tuple(zip((s for s, row in rows if row.sample), sampled, strict=True))
        for sequence, row in rows:
            sequence.cached += len(row.ids)
        for sequence, token in tokens:
            sequence.output.append(token.id)
            sequence.suspect = False
        left = tuple(s for s, token in tokens if self._ended(s, token.id))
        for sequence in left:
            self._leave(sequence)
        return Settled(tokens, left)

    def abort(self, sequence: Sequence) -> None:
        """Drop the sequence, wherever it is; between steps only."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
        else:
            self._leave(sequence)

    def blame(self, batch: Batch) -> Sequence | None:
        """The step raised: give back whose fault it is, or None after sending its rows to try again one by one.

        They prefill anew, so that nothing a half-run step left behind counts. The one to blame has left.
        """
        if len(batch.sequences) == 1:
            self._leave(batch.sequences[0])
            return batch.sequences[0]
        for sequence in batch.sequences:
            self._preempt(sequence)
            sequence.suspect = True
        return None

    def _start(self) -> None:
        """Give slots and the blocks of all their tokens to those that wait, in order.

        A block per running sequence stays free: else the next one to grow would preempt who has just started.
        """
        while self._waiting and self._slots:
            sequence = self._waiting[0]
            need = self.limits.blocks_of(sequence.length)
            if not self.pool.can_allocate(need + len(self._running)):
                return
            del self._waiting[0]
            sequence.slot = self._slots.pop()
            sequence.blocks = self.pool.allocate(need)
            insort(self._running, sequence, key=_by_age)

    def _prefill(self, prefilling: list[Sequence]) -> Batch:
        """A chunk of the oldest, and of others as long as they fit and one launch costs less than two."""
        chosen, bucket = prefilling[:1], self._prefill_bucket(prefilling[:1])
        assert bucket is not None
        for sequence in prefilling[1:]:
            together, alone = self._prefill_bucket([*chosen, sequence]), self._prefill_bucket([sequence])
            if len(chosen) == self.limits.prefill_batch or chosen[0].suspect or not (together and alone):
                break
            if not sequence.suspect and self.plan.cost(together) <= self.plan.cost(bucket) + self.plan.cost(
                alone
            ):
                chosen, bucket = [*chosen, sequence], together
        return self._batch(Step(bucket, tuple(self._row(s, self._chunk(s)) for s in chosen)), chosen)

    def _prefill_bucket(self, rows: list[Sequence]) -> Bucket | None:
        chunks = [self._chunk(s) for s in rows]
        blocks = sum(self.limits.blocks_of(s.cached + n) for s, n in zip(rows, chunks, strict=True))
        if not self.plan.fits("prefill", sum(chunks), blocks):
            return None
        return self.plan.prefill(sum(chunks), blocks)

    def _chunk(self, sequence: Sequence) -> int:
        return min(sequence.pending, self.limits.prefill_chunk)

    def _decode(self, decoding: list[Sequence]) -> Batch | None:
        """One token of each, or None if those that wanted to grow had to give way to older ones."""
        chosen = [s for s in decoding if s.suspect][:1] or decoding
        for sequence in chosen:
            self._grow(sequence)
        chosen = [s for s in chosen if s.slot is not None]
        if not chosen:
            return None
        rows = tuple(self._row(s, 1) for s in chosen)
        bucket = self.plan.decode(len(rows), max(len(row.blocks) for row in rows))
        return self._batch(Step(bucket, rows), chosen)

    def _grow(self, sequence: Sequence) -> None:
        """Let it have a block for its next position: from the youngest running if none is free, itself included."""
        while sequence.slot is not None and len(sequence.blocks) < self.limits.blocks_of(sequence.length):
            if self.pool.can_allocate(1):
                sequence.blocks += self.pool.allocate(1)
            else:
                self._preempt(self._running[-1])

    def _row(self, sequence: Sequence, count: int) -> Row:
        assert sequence.slot is not None
        start, end = sequence.cached, sequence.cached + count
        return Row(
            slot=sequence.slot,
            ids=sequence.tokens(start, end),
            start=start,
            blocks=tuple(sequence.blocks[: self.limits.blocks_of(end)]),
            sample=end == sequence.length,
            position=len(sequence.output),
        )

    def _batch(self, step: Step, sequences: list[Sequence]) -> Batch:
        opened = tuple(s for s in sequences if not s.opened)
        for sequence in opened:
            sequence.opened = True
        return Batch(step, tuple(sequences), opened)

    def _ended(self, sequence: Sequence, token: int) -> bool:
        """Length first, then end of sequence, as TGI has it."""
        full = len(sequence.output) >= sequence.max_new_tokens
        return full or (token in self._eos and not sequence.ignore_eos)

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        insort(self._waiting, sequence, key=_by_age)

    def _leave(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.pool.free(sequence.blocks)
        self._slots.append(sequence.slot)
        self._running.remove(sequence)
        sequence.slot, sequence.opened, sequence.blocks, sequence.cached = None, False, [], 0
