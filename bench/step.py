"""What a step costs the host besides the model: scheduling, building its inputs, settling; with a null model.

N sequences decode together, over contexts of mixed lengths. Whenever one ends another is admitted, so that prefill
steps are among those that are timed. Nothing is computed: the null model answers at once.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

import torch

from bench.hardware import hardware
from models import forward, sampler
from models.levels import level_of
from models.plan import LAYOUTS, Limits
from models.planner import plan_buckets
from models.step import Outcome, Row, Sampled, Sampling
from worker.scheduler import Batch, Scheduler
from worker.sequence import Sequence

T = TypeVar("T")
KINDS = (Sampling(), Sampling(seed=1, do_sample=True), Sampling(seed=2, do_sample=True, top_p=0.9))


class Bench:
    """A full engine without a device."""

    def __init__(self, limits: Limits, seed: int) -> None:
        self.limits = limits
        self.scheduler = Scheduler(plan_buckets(limits), ())
        self.parts: dict[str, list[float]] = defaultdict(list)
        self._chance = random.Random(seed)
        self._sampling: dict[int, Sampling] = {}
        self._number = 0

    def fill(self) -> None:
        """Admit until every slot is spoken for."""
        chance = self._chance
        while self.scheduler.waiting + self.limits.slots - self.scheduler.free_slots < self.limits.slots:
            length, new = chance.randint(16, 512), chance.randint(64, 512)
            prompt = tuple(chance.randrange(32_000) for _ in range(length))
            self._number += 1
            self.scheduler.admit(
                Sequence(
                    seq=self._number,
                    prompt=prompt,
                    output=[],
                    sampling=chance.choice(KINDS),
                    max_new_tokens=new,
                )
            )

    def step(self) -> str:
        """One step, timed by part; its phase."""
        self.fill()
        batch = self.timed("schedule", self.scheduler.schedule)
        assert batch is not None
        self.timed("inputs", lambda: self.build(batch))
        rows = sum(row.sample for row in batch.step.rows)
        self.timed("settle", lambda: self.scheduler.settle(batch, Outcome([Sampled(7, -1.0)] * rows)))
        return batch.step.bucket.phase

    def build(self, batch: Batch) -> None:
        """What the runner builds on the host for it."""
        for sequence in batch.opened:
            assert sequence.slot is not None
            self._sampling[sequence.slot] = sequence.sampling
        step, slots = batch.step, self.limits.slots
        forward.inputs_of(step.rows, step.bucket, self.limits)
        rows: list[tuple[Row, Sampling]] = [(row, self._sampling[row.slot]) for row in step.rows]
        level_of(pair for pair in rows if pair[0].sample)
        sampler.inputs_of(rows, step.bucket.batch, slots, torch.float32)

    def timed(self, part: str, call: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = call()
        self.parts[part].append(1e3 * (time.perf_counter() - began))
        return result


def report(bench: Bench, warm: int, steps: int) -> None:
    """The spread of a decode step's host time, in ms."""
    for _ in range(warm):
        bench.step()
    bench.parts.clear()
    phases = [bench.step() for _ in range(steps)]
    decode = [index for index, phase in enumerate(phases) if phase == "decode"]
    totals = [sum(values[index] for values in bench.parts.values()) for index in range(steps)]
    parts = {name: statistics.median(values[i] for i in decode) for name, values in bench.parts.items()}
    ordered = sorted(totals[index] for index in decode)
    print(
        f"{bench.limits.layout:6} {bench.limits.slots:4} sequences: decode p50 {statistics.median(ordered):.2f} ms, "
        f"p90 {ordered[len(ordered) * 9 // 10]:.2f} ms ("
        + ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
        + f"); all steps p50 {statistics.median(totals):.2f} ms; {len(decode)} of {steps} steps decode",
        flush=True,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(hardware("torch", "numpy"))
    for layout in LAYOUTS:
        for slots in options.slots:
            limits = Limits(
                slots=slots,
                block_size=16,
                num_blocks=slots * 64 + 1,
                max_input_tokens=1000,
                max_total_tokens=1024,
                prefill_chunk=2048,
                prefill_batch=16,
                layout=layout,
            )
            report(Bench(limits, options.seed), 3 * slots, options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
