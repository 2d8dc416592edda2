"""Who runs in the next step. Pure integers: slots, blocks, rows; it knows no tensor, no clock and no socket.

A sequence waits, runs (prefill in chunks, then one token per step) and leaves. Blocks are taken on demand; when
they run out the youngest sequence gives up its own and waits again, to prefill prompt and output later. The oldest
never does, and the pool holds any one sequence to its end (`Limits`), so somebody always gets there.

Steps may be launched ahead: `schedule` may be called again before the step that it gave is settled.

Deterministic limits (models/plan.py): a token's shapes follow from its own sequence alone. One that is resumed, or was
preempted, computes its known tokens anew, in the shapes they had, before it goes on.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from operator import attrgetter

from models.blocks import BlockPool
from models.histogram import Histogram
from models.plan import Bucket, Plan
from models.prefix import root_key
from models.step import Outcome, Row, Sampled, Step
from worker import forking
from worker.packing import pack
from worker.prefixes import Prefixes
from worker.sequence import Sequence

SCAN = 8
"""Waiting sequences that are looked at when the first of them does not fit."""

MOST_PASSED = 16
"""Younger ones that may start before one that does not fit; then all wait until it does."""

_by_age: Callable[[Sequence], int] = attrgetter("age")


class Refused(ValueError):
    """The sequence can never run here; the message says which limit it breaks."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A step, the sequence of each of its rows, and those among them whose slot the runner has yet to open."""

    step: Step
    sequences: tuple[Sequence, ...]
    opened: tuple[Sequence, ...]
    forks: tuple[tuple[Sequence, ...], ...]
    """Of each row, the sequences that begin with its logits."""
    used: tuple[int, int] = (0, 0)
    """What of its bucket is no padding: tokens, or rows of a decode, and context blocks."""
    joining: bool = False
    """Whether it prefills while others decode."""

    @property
    def padding(self) -> tuple[int, int]:
        """The rest."""
        bucket, (x, blocks) = self.step.bucket, self.used
        return bucket.x - x, bucket.blocks - blocks

    @property
    def rows(self) -> Iterator[tuple[Sequence, Row]]:
        """Each sequence with its row."""
        return zip(self.sequences, self.step.rows, strict=True)

    @property
    def sampling(self) -> list[Sequence | None]:
        """Row by row in each round, the sequence that a token is sampled for."""
        chosen = [(sequence, *self.forks[index]) for index, sequence in enumerate(self.sequences)]
        return [
            chosen[index][turn] if row.sample else None
            for turn, rows in enumerate(self.step.rounds)
            for index, row in enumerate(rows)
        ]

    @property
    def everybody(self) -> list[Sequence]:
        """The sequences of its rows, and their forks."""
        return [*self.sequences, *(fork for forks in self.forks for fork in forks)]


@dataclass(frozen=True, slots=True)
class Settled:
    """What a step gave: (sequence, its token), whose prompt is scored, and the sequences that ended with it."""

    tokens: tuple[tuple[Sequence, Sampled], ...]
    scored: tuple[Sequence, ...]
    ended: tuple[Sequence, ...]
    diverged: tuple[Sequence, ...] = ()
    """Deterministic: those of which another token came out than the one that is known."""


class Scheduler:
    """The engine's slots and blocks, and the sequences that wait for them or hold them."""

    def __init__(
        self,
        plan: Plan,
        eos_ids: Iterable[int],
        identity: str = "",
        prefix_cache: bool = True,
        histogram: Histogram | None = None,
    ) -> None:
        """`identity`: what K/V depends on besides tokens. `histogram` counts the shape of every step."""
        self.plan, self.limits = plan, plan.limits
        self.pool = BlockPool(self.limits.num_blocks, self.limits.block_size)
        self.hit_tokens = self.prompt_tokens = 0
        """Tokens of started sequences that were found in the prefix cache, and all of them."""
        self.preemptions = 0
        """Times that a sequence gave up its blocks for an older one."""
        self._eos = frozenset(eos_ids)
        self._identity = identity
        self._prefixes = Prefixes(self.pool, self.limits, prefix_cache)
        self._histogram = Histogram() if histogram is None else histogram
        self._slots = list(range(self.limits.slots - 1, -1, -1))
        self._copies: dict[int, int] = {}
        """Block → the one whose content it must have before the next step."""
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._admitted = self._steps = self._in_flight = 0
        self._prefilled = False

    @property
    def free_slots(self) -> int:
        """Slots that no sequence holds."""
        return len(self._slots)

    @property
    def waiting(self) -> int:
        """Sequences that hold no slot yet."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether anything is left to run or to settle."""
        return bool(self._running or self._waiting)

    def admit(self, sequence: Sequence, salt: str = "") -> None:
        """Take the sequence in; Refused, with a sentence, if it could never run to its end.

        It shares prefix blocks with sequences of the same salt only.
        """
        self._check(sequence)
        if self.limits.deterministic:
            sequence.rewind()
        sequence.root = root_key(self._identity, salt)
        sequence.age, self._admitted = self._admitted, self._admitted + 1
        self._waiting.append(sequence)

    def _check(self, sequence: Sequence) -> None:
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
        if sequence.full:
            raise Refused(
                f"nothing is left to generate: all {sequence.max_new_tokens} tokens are there already"
            )

    def schedule(self) -> Batch | None:
        """The next step, or None: nothing is left to run, or all wait for launched steps or to be allowed more tokens.

        Prefill and decode take turns while both have rows: what decodes waits for one chunk at most.
        """
        self._start()
        alive = [s for s in self._running if not (s.ended or s.full or s.held or s.diverged)]
        prefilling = [s for s in alive if not s.decoding]
        decoding = [s for s in alive if s.decoding]
        if prefilling and not (decoding and self._prefilled):
            self._prefilled = True
            return replace(self._prefill(prefilling), joining=bool(decoding))
        self._prefilled = False
        return self._decode(decoding) if decoding else None

    def settle(self, batch: Batch, outcome: Outcome) -> Settled:
        """Take in what the oldest launched step gave; sequences at their end leave."""
        self._in_flight -= 1
        rows = list(batch.rows)
        for sequence, row in rows:
            sequence.flying -= 1
            sequence.settled += row.count
            if row.targets:
                sequence.scores += outcome.scores
        for (_, row), forks in zip(rows, batch.forks, strict=True):
            for fork in forks:
                fork.flying -= 1
                fork.settled = row.start + row.count
        sampled = zip((s for s in batch.sampling if s), outcome.sampled, strict=True)
        tokens = tuple((s, token) for s, token in sampled if self._accept(s, token))
        for sequence in batch.everybody:
            if not sequence.ended:
                self._prefixes.publish(sequence)
            elif not sequence.flying:
                self._leave(sequence)
        diverged = tuple(s for s, _ in rows if s.diverged and not s.ended and not s.flying)
        for sequence in diverged:
            self._preempt(sequence)
        return Settled(
            tokens,
            tuple(s for s, row in rows if row.targets and not s.scoring),
            tuple(s for s, _ in tokens if s.ended),
            diverged,
        )

    def abort(self, sequence: Sequence) -> None:
        """Drop the sequence, wherever it is. What is on its way for it will be dropped too."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
        elif sequence.flying:
            sequence.ended = True
        else:
            self._leave(sequence)

    def blame(self, batch: Batch, later: Iterable[Batch] = ()) -> Sequence | None:
        """The step raised: give back whose fault it is, or None after sending its rows to try again one by one.

        They prefill anew, and so do those of the steps launched after it, whose results are lost: nothing that a
        half-run step left behind counts. The one to blame has left. Nothing that was cached is found again: a chunk
        that computed NaN is noticed only when a token is sampled after it, and its blocks are published by then.
        """
        self._in_flight = 0
        self.pool.forget()
        lost = {s: None for each in (batch, *later) for s in each.everybody}
        unwritten = {block for each in (batch, *later) for _, block in each.step.copies}
        lost |= {s: None for s in self._running if unwritten.intersection(s.blocks)}
        guilty = batch.sequences[0] if len(batch.sequences) == 1 else None
        for sequence in lost:
            if sequence is guilty or sequence.ended:
                self._leave(sequence)
                continue
            self._preempt(sequence)
            sequence.suspect = sequence.suspect or sequence in batch.everybody
        return guilty if guilty is None or not guilty.ended else None

    def _start(self) -> None:
        """Give slots and the blocks of all their tokens to those that wait, in order.

        One that does not fit lets a few others pass, and only so many: a big job waits, but not for ever.
        """
        skipped: list[Sequence] = []
        led = forking.led(self._waiting, self._running)
        for sequence in self._waiting[:]:
            if not self._slots or len(skipped) == SCAN:
                return
            if sequence in led:
                continue
            if self._take_in(sequence, len(led)):
                self._waiting.remove(sequence)
                led = forking.led(self._waiting, self._running)
                for each in skipped:
                    each.passed += 1
            elif sequence.passed >= MOST_PASSED:
                return
            else:
                skipped.append(sequence)

    def _take_in(self, sequence: Sequence, led: int) -> bool:
        """Let it run if its blocks can be had, and a slot for each that would follow it, or follows another.

        A block for each of them stays free: else the next one to grow would preempt who has just started.
        """
        found = self._prefixes.find(sequence)
        need = self.limits.blocks_of(sequence.length) - len(found)
        led += min(len(forking.followers(sequence, self._waiting)), self.limits.slots - 1)
        spare = led + len(self._running) if self._running else 0
        if len(self._slots) <= led or not self.pool.can_allocate(need + spare, found):
            return False
        self.pool.share(found)
        sequence.slot = self._slots.pop()
        sequence.blocks.extend([*found, *self.pool.allocate(need)])
        sequence.published = len(found)
        sequence.cached = sequence.settled = len(found) * self.limits.block_size
        self.hit_tokens += sequence.cached
        self.prompt_tokens += sequence.length
        insort(self._running, sequence, key=_by_age)
        return True

    def _prefill(self, prefilling: list[Sequence]) -> Batch:
        packed = pack(self.plan, prefilling)
        used = packed.tokens, packed.blocks(self.plan)
        self._histogram.count(packed.bucket.phase, *used)
        sequences, forks = [chunk.sequence for chunk in packed.chunks], []
        for sequence, count in ((chunk.sequence, chunk.count) for chunk in packed.chunks):
            last = sequence.cached + count == sequence.length
            forks.append(self._fork(sequence) if last and not sequence.ended else ())
        rows = [
            self._chunk_row(chunk.sequence, chunk.count, fork)
            for chunk, fork in zip(packed.chunks, forks, strict=True)
        ]
        return self._launch(packed.bucket, used, rows, sequences, forks)

    def _fork(self, leader: Sequence) -> tuple[Sequence, ...]:
        """Let those that follow it run on its blocks, which it has prefilled when its step is done."""
        forks = tuple(forking.followers(leader, self._waiting)[: len(self._slots)])
        for fork in forks:
            self._waiting.remove(fork)
            fork.slot = self._slots.pop()
            self.pool.share(leader.blocks)
            fork.blocks = leader.blocks[:]
            fork.published, fork.keys = leader.published, leader.keys[:]
            self.hit_tokens += leader.length
            self.prompt_tokens += leader.length
            insort(self._running, fork, key=_by_age)
        return forks

    def _decode(self, decoding: list[Sequence]) -> Batch | None:
        """One token of each, or None if there is nobody, or nobody can grow before the launched steps are settled."""
        chosen = [s for s in decoding if s.suspect][:1] or self._of_one_width(decoding)
        for sequence in chosen:
            if not self._grow(sequence):
                return None
        chosen = self._within_bounds([s for s in chosen if s.slot is not None])
        if not chosen:
            # Those that wanted to grow gave way to older ones, which are at their prefill.
            return self.schedule() if self.busy and not self._in_flight else None
        self._steps += 1
        for sequence in chosen:
            sequence.turn = self._steps
        rows = [self._row(sequence, (), 1) for sequence in chosen]
        widths = [len(row.blocks) for row in rows]
        blocks = sum(widths) if self.limits.layout == "flat" else max(widths)
        used = len(rows), blocks
        self._histogram.count("decode", *used)
        return self._launch(self.plan.decode(*used), used, rows, chosen, [()] * len(rows))

    def _of_one_width(self, decoding: list[Sequence]) -> list[Sequence]:
        """Deterministic: those whose bucket is that of who has waited longest."""
        if not (self.limits.deterministic and decoding):
            return decoding
        buckets = [self.plan.decode(1, self.limits.blocks_of(s.cached + 1)) for s in decoding]
        _, wanted = min(zip(decoding, buckets, strict=True), key=lambda pair: pair[0].turn)
        return [s for s, bucket in zip(decoding, buckets, strict=True) if bucket == wanted]

    def _within_bounds(self, chosen: list[Sequence]) -> list[Sequence]:
        """Those whose blocks one flat step can list, who waited longest first: shared blocks are listed for each."""
        if self.limits.layout != "flat":
            return chosen
        room = self.limits.most("decode")[1]
        kept = []
        for sequence in sorted(chosen, key=attrgetter("turn")):
            room -= len(sequence.blocks)
            if room < 0:
                break
            kept.append(sequence)
        return kept

    def _grow(self, sequence: Sequence) -> bool:
        """Let its next position have a block that is its own: from the youngest running, itself too, if none is free.

        False: somebody must give way, which nobody can while steps are on their way.
        """
        while sequence.slot is not None and not self._can_write(sequence):
            if self.pool.can_allocate(1):
                self._give_block(sequence)
            elif self._in_flight:
                return False
            else:
                self.preemptions += 1
                self._preempt(self._running[-1])
        return True

    def _can_write(self, sequence: Sequence) -> bool:
        """Whether it has a block of its own for its next position."""
        index = sequence.cached // self.limits.block_size
        return index < len(sequence.blocks) and self.pool.writable(sequence.blocks[index])

    def _give_block(self, sequence: Sequence) -> None:
        """One more, or one in which it goes on by itself: with a copy of what it shared, made before the next step."""
        (block,) = self.pool.allocate(1)
        index = sequence.cached // self.limits.block_size
        if index == len(sequence.blocks):
            sequence.blocks.append(block)
            return
        self._copies[block] = sequence.blocks[index]
        self.pool.free(sequence.blocks[index : index + 1])
        sequence.blocks[index] = block

    def _chunk_row(self, sequence: Sequence, count: int, forks: tuple[Sequence, ...]) -> Row:
        """The row of its next `count` tokens, all of them read."""
        start, end = sequence.cached, sequence.cached + count
        targets: list[int] = []
        if sequence.scoring:
            targets = sequence.tokens(start + 1, min(end + 1, len(sequence.prompt)))
        row = self._row(sequence, sequence.tokens(start, end), count)
        slots = tuple(fork.slot for fork in forks if fork.slot is not None)
        return replace(row, targets=tuple(targets), forks=slots)

    def _row(self, sequence: Sequence, ids: Iterable[int], count: int) -> Row:
        assert sequence.slot is not None
        end = sequence.cached + count
        return Row(
            slot=sequence.slot,
            ids=tuple(ids),
            start=sequence.cached,
            blocks=sequence.blocks[: self.limits.blocks_of(end)],
            sample=end == sequence.length,
            position=len(sequence.output) + sequence.unread,
        )

    def _launch(
        self,
        bucket: Bucket,
        used: tuple[int, int],
        rows: Seq[Row],
        sequences: Seq[Sequence],
        forks: Seq[tuple[Sequence, ...]],
    ) -> Batch:
        """Count the step as launched."""
        copies = tuple((source, target) for target, source in self._copies.items())
        self._copies.clear()
        step = Step(bucket, tuple(rows), copies)
        opened = []
        for sequence, row, followers in zip(sequences, rows, forks, strict=True):
            for each in (sequence, *followers):
                opened += [] if each.opened else [each]
                each.opened = True
                each.flying += 1
                each.cached = row.start + row.count
                each.decoding = row.sample
                each.unread += row.sample
        self._in_flight += 1
        return Batch(step, tuple(sequences), tuple(opened), tuple(forks), used)

    def _accept(self, sequence: Sequence, token: Sampled) -> bool:
        """Take the oldest unread token in, unless the sequence had ended before it."""
        sequence.unread -= 1
        if sequence.ended or sequence.diverged:
            return False
        if sequence.replaying:
            sequence.diverged = token.id != sequence.replay[len(sequence.output)]
            if not sequence.diverged:
                sequence.output.append(token.id)
            return False
        sequence.suspect = False
        sequence.output.append(token.id)
        # Length first, then end of sequence, as TGI has it.
        full = len(sequence.output) >= sequence.max_new_tokens
        end = token.id in self._eos and not sequence.ignore_eos
        sequence.ended = full or end or token.id in sequence.sampling.stop_token_ids
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.turn = self._steps  # else it would have the next turn again, of those that decode in turns
        if self.limits.deterministic:
            sequence.rewind()
        insort(self._waiting, sequence, key=_by_age)

    def _leave(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.pool.free(sequence.blocks)
        self._slots.append(sequence.slot)
        self._running.remove(sequence)
        sequence.reset()
