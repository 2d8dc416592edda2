"""A scheduler with the strict scripted runner behind it, driven step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from models.plan import Limits, Plan
from models.planner import plan_buckets
from models.step import ModelInfo, Pending, Sampling
from worker.scheduler import Batch, Scheduler
from worker.script import EOS, VOCAB_SIZE, say
from worker.scripted import ScriptedRunner, Settings
from worker.sequence import Sequence

MOST_STEPS = 20_000


def limits(**changes: Any) -> Limits:
    """Small limits, so that everything is scarce."""
    small: dict[str, Any] = {
        "slots": 4,
        "block_size": 4,
        "num_blocks": 20,
        "max_input_tokens": 40,
        "max_total_tokens": 60,
        "prefill_chunk": 8,
        "prefill_batch": 2,
    }
    if changes.get("deterministic"):
        small["prefill_batch"] = 1
    return Limits(**{**small, **changes})


@cache
def _plan(held: Limits) -> Plan:
    """Plans are values: one for each limits is enough."""
    return plan_buckets(held)


def scripted_runner(held: Limits) -> ScriptedRunner:
    """The runner for these limits; it raises where a device would get wrong what the scheduler asks."""
    info = ModelInfo(
        model_id="scripted",
        revision="",
        folder=Path("/nowhere"),
        device="scripted",
        dtype="float32",
        vocab_size=VOCAB_SIZE,
        eos_ids=(EOS,),
        max_position=held.max_total_tokens,
    )
    return ScriptedRunner(info, _plan(held), Settings())


def sequence(seq: int, prompt: Iterable[int], count: int, **changes: Any) -> Sequence:
    """One that asks for `count` tokens."""
    given = {"output": [], "sampling": Sampling(), **changes}
    return Sequence(seq=seq, prompt=tuple(prompt), max_new_tokens=count, **given)


class Lab:
    """Scheduler and runner, what is on its way, and what every sequence was given so far."""

    def __init__(self, depth: int = 1, prefix_cache: bool = True, **changes: Any) -> None:
        self.limits = limits(**changes)
        self.runner = scripted_runner(self.limits)
        self.depth = depth
        eos = self.runner.info.eos_ids
        self.scheduler = Scheduler(self.runner.plan, eos, prefix_cache=prefix_cache)
        self.launched: deque[tuple[Batch, Pending]] = deque()
        self.given: dict[int, list[int]] = {}
        self.scores: dict[int, list[float]] = {}
        self.left: list[int] = []
        self.batches: list[Batch] = []

    def admit(self, *sequences: Sequence, salt: str = "") -> None:
        for each in sequences:
            self.given[each.seq] = list(each.output)
            self.scheduler.admit(each, salt)

    def step(self) -> Batch | None:
        """One step launched, or else one settled; None: nothing is left. One that raises is the scheduler's."""
        batch = self.scheduler.schedule()
        self.check_books()
        if batch is not None:
            self.batches.append(batch)
            assert len(batch.sequences) == 1 or not any(each.suspect for each in batch.sequences)
            for each in batch.opened:
                assert each.slot is not None
                self.runner.open(each.slot, each.prompt, each.output, each.sampling)
            self.launched.append((batch, self.runner.launch(batch.step)))
        elif not self.launched:
            return None
        settled = batch or self.launched[0][0]
        if batch is None or len(self.launched) == self.depth:
            self.settle()
        return settled

    def settle(self) -> None:
        """Read the oldest launched step."""
        batch, pending = self.launched.popleft()
        try:
            outcome = pending.read()
        except RuntimeError as error:
            if "scripted to raise" not in str(error):
                raise
            guilty = self.scheduler.blame(batch, [later for later, _ in self.launched])
            self.launched.clear()
            self.left += [guilty.seq] if guilty else []
            return
        settled = self.scheduler.settle(batch, outcome)
        for each, token in settled.tokens:
            self.given[each.seq].append(token.id)
        self.scores |= {each.seq: list(each.scores) for each in settled.scored}
        self.left += [each.seq for each in settled.ended]

    def drain(self) -> None:
        """Step until nothing is left; every slot and block must then be free."""
        for _ in range(MOST_STEPS):
            if self.step() is None:
                break
        assert not self.scheduler.busy
        assert self.scheduler.free_slots == self.limits.slots
        assert self.scheduler.pool.free_blocks == self.limits.usable_blocks

    def check_books(self) -> None:
        """No slot and no block is lost, none is scratch, and what two share neither can write."""
        running = self.scheduler._running
        size, pool = self.limits.block_size, self.scheduler.pool
        blocks = {block for each in running for block in each.blocks}
        slots = [each.slot for each in running]
        assert len(blocks) == self.limits.usable_blocks - pool.free_blocks
        assert 0 not in blocks
        assert len(set(slots)) == len(slots) == self.limits.slots - self.scheduler.free_slots
        for queue in (running, self.scheduler._waiting):
            assert queue == sorted(queue, key=lambda each: each.age), "the oldest goes first"
        for each in running:
            for block in each.blocks[each.cached // size :]:
                holders = [other for other in running if block in other.blocks]
                assert pool.writable(block) or all(other.group == each.group > 0 for other in holders)
        for each in self.scheduler._waiting:
            assert each.slot is None and not each.blocks and each.cached == 0


def expected(each: Sequence, count: int) -> list[int]:
    """What the script says to it."""
    return say(each.prompt, each.sampling, count)
