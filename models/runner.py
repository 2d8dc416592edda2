"""The runner: a loaded model that executes the steps of a sealed plan, as models.step.Runner asks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models import forward, sampler
from models.cache import KvPools
from models.captured import Programs
from models.devices import Cpu
from models.levels import LEVELS, Part, edits, level_of
from models.plan import Bucket, Plan
from models.sampler import Sampler
from models.step import ModelInfo, Progress, Row, Sampled, Sampling, Step


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way: what the sampler chose for all rows, and which of them were asked for."""

    chosen: Tensor
    wanted: tuple[tuple[int, int], ...]
    """(row, how many of the likeliest tokens to report)."""

    def read(self) -> list[Sampled]:
        """Wait for the device; one entry per row with `sample`, in order. FloatingPointError if one is NaN."""
        chosen = self.chosen.tolist()
        return [sampler.report(chosen[row], top_n) for row, top_n in self.wanted]


_NOTHING = Launched(torch.empty(0), ())
"""A step of chunks that want no token."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loaded model is made of; models/load.py puts it together."""

    forward: forward.Forward
    pools: KvPools
    sampler: Sampler
    device: Cpu


class PagedRunner:
    """Forward and sampler as tables of programs: by bucket, by (batch, level), and one that opens a slot."""

    def __init__(self, info: ModelInfo, plan: Plan, parts: Parts) -> None:
        self.info = info
        self.plan = plan
        self._parts = parts
        self._forwards: Programs[Bucket] = Programs(parts.device.strategy())
        self._samplers: Programs[tuple[int, Part]] = Programs(parts.device.strategy())
        self._openers: Programs[str] = Programs(parts.device.strategy())
        self._seconds: dict[Bucket, float] = {}
        self._sampling: dict[int, float] = {}
        self._open: dict[int, Sampling] = {}

    @property
    def compilations(self) -> int:
        """Programs built since warm-up: 0, or the plan was left."""
        return self._forwards.since_seal + self._samplers.since_seal + self._openers.since_seal

    def seconds(self, bucket: Bucket) -> float:
        """How long that bucket took in warm-up, forward and samplers; KeyError outside the plan."""
        return self._seconds[bucket]

    @torch.inference_mode()
    def warm_up(self, progress: Progress) -> None:
        """Build and execute every bucket of the plan, largest first: memory that suffices once suffices for all."""
        buckets = sorted(self.plan.buckets, key=self.plan.cost, reverse=True)
        for done, bucket in enumerate(buckets):
            progress("warm-up", done, len(buckets))
            self._seconds[bucket] = self._build(bucket)
        self._build_opener()
        self._forwards.seal()
        self._samplers.seal()
        self._openers.seal()
        progress("warm-up", len(buckets), len(buckets))

    def _build(self, bucket: Bucket) -> float:
        """Capture and execute the bucket on padding, which writes to scratch alone; seconds with its samplers."""
        self._forwards.build(bucket, self._parts.forward, self._on_device(forward.inputs_of((), bucket)))
        started = time.perf_counter()
        (logits,) = self._forwards[bucket].run(**forward.inputs_of((), bucket))
        seconds = time.perf_counter() - started
        if bucket.batch not in self._sampling:
            self._sampling[bucket.batch] = sum(self._build_sampler(level, logits) for level in LEVELS)
        return seconds + self._sampling[bucket.batch]

    def _build_sampler(self, level: Part, logits: Tensor) -> float:
        """Capture and execute the sampler of a level for logits of this batch; seconds."""
        batch = len(logits)
        inputs = self._sampler_inputs((), batch)
        fixed = self._on_device(inputs) | {"logits": torch.zeros_like(logits)}
        self._samplers.build((batch, level), self._parts.sampler.planned(level), fixed)
        started = time.perf_counter()
        self._samplers[batch, level].run(logits=logits, **inputs)
        return time.perf_counter() - started

    def _build_opener(self) -> None:
        """Capture and execute the program that opens a slot, on the scratch slot."""
        history = self._parts.sampler.history
        inputs = history.rows_of(self.plan.limits.slots, (), (), Sampling())
        self._openers.build("open", history.write, self._on_device(inputs))
        self._openers["open"].run(**inputs)

    @property
    def tokens(self) -> Tensor:
        """[slots + 1] int64 on the device: the token last chosen in each slot; the last one is scratch."""
        return self._parts.sampler.tokens

    @torch.inference_mode()
    def open(self, slot: int, prompt: Sequence[int], output: Sequence[int], sampling: Sampling) -> None:
        """Give `slot` to a sequence: its sampling, and what penalties count (prompt and output so far)."""
        self._open[slot] = sampling
        if edits(sampling):
            rows = self._parts.sampler.history.rows_of(slot, prompt, output, sampling)
            self._openers["open"].run(**rows)

    @torch.inference_mode()
    def launch(self, step: Step) -> Launched:
        """Run one step; KeyError for a bucket outside the plan, ValueError for rows that do not fit theirs."""
        program = self._forwards[step.bucket]
        (logits,) = program.run(**forward.inputs_of(step.rows, step.bucket))
        wanted = tuple(index for index, row in enumerate(step.rows) if row.sample)
        return self._choose(step, logits, wanted) if wanted else _NOTHING

    def _choose(self, step: Step, logits: Tensor, wanted: Sequence[int]) -> Launched:
        rows = [(row, self._open[row.slot]) for row in step.rows]
        level = level_of(rows[index] for index in wanted)
        inputs = self._sampler_inputs(rows, step.bucket.batch)
        (chosen,) = self._samplers[step.bucket.batch, level].run(logits=logits, **inputs)
        return Launched(chosen, tuple((index, rows[index][1].top_n) for index in wanted))

    def close(self) -> None:
        """Free the pools and the programs; the runner is of no use afterwards."""
        self._parts.pools.free()
        self._parts.forward.detach()
        self._forwards, self._samplers, self._openers = (
            Programs(self._parts.device.strategy()) for _ in range(3)
        )

    def _sampler_inputs(self, rows: Sequence[tuple[Row, Sampling]], batch: int) -> dict[str, Tensor]:
        return sampler.inputs_of(rows, batch, self.plan.limits.slots, self._parts.sampler.dtype)

    def _on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self._parts.device.torch) for name, value in inputs.items()}
