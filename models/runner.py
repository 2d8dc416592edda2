"""The runner: a loaded model that executes the steps of a sealed plan, as models.step.Runner asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import forward, sampler
from models.cache import KvPools
from models.captured import Programs
from models.devices import Device, Fetched
from models.errors import ModelRefused
from models.levels import Part, has_state, levels_of
from models.plan import Bucket, Plan
from models.room import Need
from models.sampler import Sampler
from models.step import Allowed, ModelInfo, Outcome, Progress, Row, Sampling, Step
from models.wishes import Wishes

COPIES = 8
"""Blocks that one run of the copying program copies."""
PROBES = 4
"""Tokens by which it is checked that a decode step computes all its rows alike."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way: what the sampler chose for all rows, and which of them were asked for."""

    chosen: tuple[Fetched, ...]
    """One for each round; none if no token was wanted."""
    wanted: tuple[tuple[tuple[int, int], ...], ...]
    """(row, how many of the likeliest tokens to report) of each round."""
    scores: Fetched | None = None
    """Of a score step, [T]: the log-probabilities of its row's targets, then of padding."""
    scored: int = 0

    def read(self) -> Outcome:
        """Wait for the device. FloatingPointError if a number that was asked for is NaN."""
        rounds = [
            (each.result().tolist(), wanted) for each, wanted in zip(self.chosen, self.wanted, strict=True)
        ]
        scores = self.scores.result().tolist()[: self.scored] if self.scores else []
        if any(map(math.isnan, scores)):
            raise FloatingPointError(sampler.IS_NAN)
        sampled = [sampler.report(chosen[row], n) for chosen, wanted in rounds for row, n in wanted]
        return Outcome(sampled, scores)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loaded model is made of; models/load.py puts it together."""

    forward: forward.Forward
    pools: KvPools
    sampler: Sampler
    device: Device


class PagedRunner:
    """Forward and sampler as tables of programs: by bucket, by (batch, level), and a few others."""

    def __init__(self, info: ModelInfo, plan: Plan, parts: Parts, depth: int = 1, ready: int = 0) -> None:
        """`ready`: how many buckets are warmed up before jobs are taken; 0: all."""
        self.info = info
        self.depth = depth
        self.whole = plan
        self.plan = plan.first(ready or len(plan))
        self._parts = parts
        strategy = parts.device.strategy()
        self._forwards: Programs[Bucket] = Programs(strategy)
        self._samplers: Programs[tuple[int, Part]] = Programs(strategy)
        self._others: Programs[str] = Programs(strategy)
        self._logits: dict[int, Tensor] = {}
        """Of the last forward of each batch, while warming up."""
        self._compiled = 0
        """What the device had compiled when the plan was settled."""
        self._seconds: dict[Bucket, float] = {}
        self._sampling: dict[int, float] = {}
        self._levels = levels_of(info.watermark)
        self._wishes = Wishes(plan.limits.slots, parts.sampler.dtype, self._levels)

    @property
    def compilations(self) -> int:
        """Programs built since warm-up, or what the device compiled besides: 0, or the plan was left."""
        built = sum(programs.since_seal for programs in self._tables)
        return max(built, self._parts.device.compilations() - self._compiled)

    @property
    def _tables(self) -> tuple[Programs[Any], ...]:
        return self._forwards, self._samplers, self._others

    def seconds(self, bucket: Bucket) -> float:
        """How long that bucket took in warm-up, forward and samplers; KeyError outside the plan."""
        return self._seconds[bucket]

    @torch.inference_mode()
    def warm_up(self, progress: Progress) -> None:
        """Build and execute the first buckets, largest first: memory that suffices once suffices for all."""
        buckets = sorted(self.plan.buckets, key=self.plan.cost, reverse=True)
        self._compile(buckets, progress)
        for done, bucket in enumerate(buckets):
            progress("warm-up", done, len(self.whole))
            self._seconds[bucket] = self._execute(bucket)
        self._run_others()
        self._settle(progress)

    @torch.inference_mode()
    def grow(self, progress: Progress) -> None:
        """Build and execute one bucket more, after which `plan` is larger; nothing if it is whole, and sealed."""
        if len(self.plan) == len(self.whole):
            return
        plan = self.whole.first(len(self.plan) + 1)
        self._compile(plan.buckets[-1:], lambda *_: None)
        self._seconds[plan.buckets[-1]] = self._execute(plan.buckets[-1])
        self.plan = plan
        self._settle(progress)

    @torch.inference_mode()
    def trial(self) -> Need:
        """What serving takes besides weights and pools: run the largest bucket of each phase; nothing is sealed."""
        device, largest = self._parts.device, self.whole.first(0).buckets
        before = device.memory()
        for bucket in largest:
            self._execute(bucket)
        self._run_others()
        after = device.memory()
        kept = max(0, before.free - after.free)
        return Need(step=max(0, after.peak - after.held), bucket=-(-kept // len(largest)))

    def _compile(self, buckets: Sequence[Bucket], progress: Progress) -> None:
        """Compile their programs without running them, where the device can: it takes less time than both at once."""
        compile_only = self._parts.device.compile_only()
        if compile_only is None:
            return
        with compile_only:
            for done, bucket in enumerate(buckets):
                progress("compile", done, len(buckets))
                self._run_forward(bucket)
                self._run_samplers(bucket)
            self._run_others()

    def _settle(self, progress: Progress) -> None:
        """From here on what is built or compiled is one too many; sealed if the plan is whole."""
        self._logits.clear()
        for programs in self._tables:
            programs.seal()
        self._parts.device.synchronize()
        self._compiled = self._parts.device.compilations()
        if len(self.plan) == len(self.whole):
            self._parts.device.seal()
        progress("warm-up", len(self.plan), len(self.whole))

    def _execute(self, bucket: Bucket) -> float:
        """Run all programs of a bucket on padding, which writes to scratch alone; seconds of the last runs."""
        for _ in range(self._parts.device.warm_runs):
            seconds = self._timed(lambda: self._run_forward(bucket))
        if self.plan.limits.deterministic and bucket.phase == "decode":
            self._check_rows(bucket)
        if bucket.batch not in self._sampling:
            for _ in range(self._parts.device.warm_runs):
                self._sampling[bucket.batch] = self._timed(lambda: self._run_samplers(bucket))
        return seconds + self._sampling[bucket.batch]

    def _timed(self, run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        self._parts.device.synchronize()
        return time.perf_counter() - started

    def _run_forward(self, bucket: Bucket) -> None:
        """Run the bucket's forward on padding; built, if it is not there."""
        inputs = forward.inputs_of((), bucket, self.plan.limits)
        if bucket not in self._forwards:
            self._forwards.build(bucket, self._parts.forward.planned(bucket), self._on_device(inputs))
        logits, *_ = self._forwards[bucket].run(**inputs)
        self._logits[bucket.batch] = logits

    def _check_rows(self, bucket: Bucket) -> None:
        """ModelRefused if this device's kernels give equal rows of a step other bits in other places."""
        limits, tokens = self.plan.limits, self._parts.sampler.tokens
        inputs = forward.inputs_of((), bucket, limits)
        equal = {name: value[:1].expand_as(value).contiguous() for name, value in inputs.items()}
        equal["positions"].fill_(min(bucket.blocks * limits.block_size, limits.max_total_tokens) - 1)
        for probe in range(PROBES):
            # Spread over the vocabulary: the embedding of a padding token is all zeros, and proves nothing.
            tokens[limits.slots] = (2 * probe + 1) * self.info.vocab_size // (2 * PROBES)
            logits, *_ = self._forwards[bucket].run(**equal)
            if strange := (logits != logits[:1]).any(1).nonzero()[:, 0].tolist():
                raise ModelRefused(
                    f"deterministic: of {bucket.batch} equal rows of a decode step this device computes row "
                    f"{strange[0]} otherwise than row 0: set slots to another multiple of 8, or torch's threads to 1"
                )
        tokens[limits.slots] = 0

    def _run_samplers(self, bucket: Bucket) -> None:
        """Run the samplers of all levels on the logits of a batch; built, if they are not there."""
        batch, logits = bucket.batch, self._logits[bucket.batch]
        wishes = self._wishes.inputs((), batch)
        for level in self._levels:
            inputs = wishes | self._mask(level, None, batch)
            if (batch, level) not in self._samplers:
                fixed = self._on_device(inputs) | {"logits": torch.zeros_like(logits)}
                self._samplers.build((batch, level), self._parts.sampler.planned(level), fixed)
            self._samplers[batch, level].run(logits=logits, **inputs)

    def _run_others(self) -> None:
        """Run, on scratch, the programs that open a slot, copy blocks and scrub the pools; built, too."""
        history = self._parts.sampler.history
        inputs = history.rows_of(self.plan.limits.slots, (), (), Sampling())
        if "open" not in self._others:
            self._others.build("open", history.write, self._on_device(inputs))
            self._others.build("copy", self._parts.pools.copy, self._on_device(_pairs(())))
            self._others.build("scrub", self._parts.pools.scrub, {})
        self._others["open"].run(**inputs)
        self._others["copy"].run(**_pairs(()))
        self.scrub()

    @torch.inference_mode()
    def open(self, slot: int, prompt: Sequence[int], output: Sequence[int], sampling: Sampling) -> None:
        """Give `slot` to a sequence: its sampling, and what penalties count (prompt and output so far)."""
        self._wishes.set(slot, sampling)
        if has_state(sampling):
            rows = self._parts.sampler.history.rows_of(slot, prompt, output, sampling)
            self._others["open"].run(**rows)

    @torch.inference_mode()
    def launch(self, step: Step, allowed: Allowed | None = None) -> Launched:
        """Run one step; KeyError for a bucket outside the plan, ValueError for rows that do not fit theirs."""
        program = self._forwards[step.bucket]
        for start in range(0, len(step.copies), COPIES):
            self._others["copy"].run(**_pairs(step.copies[start : start + COPIES]))
        logits, *rest = program.run(**forward.inputs_of(step.rows, step.bucket, self.plan.limits))
        device, rounds = self._parts.device, step.rounds if any(row.sample for row in step.rows) else []
        scores = device.fetch(rest[0]) if rest else None  # before the sampler's program can write over it
        chosen = self._choose(step.bucket.batch, rounds, logits, allowed) if rounds else ()
        device.step_boundary()
        wanted = tuple(
            tuple((index, self._wishes.top_n[row.slot]) for index, row in enumerate(rows) if row.sample)
            for rows in rounds
        )
        return Launched(chosen, wanted, scores, sum(len(row.targets) for row in step.rows))

    def _choose(
        self, batch: int, rounds: list[tuple[Row, ...]], logits: Tensor, allowed: Allowed | None
    ) -> tuple[Fetched, ...]:
        """One run of one program for each round: it keeps the logits, over which a replay of another may write."""
        level = self._wishes.level([row for rows in rounds for row in rows])
        program, chosen = self._samplers[batch, level], list[Fetched]()
        masks = np.asarray(allowed()).reshape(len(rounds), len(rounds[0]), -1) if allowed else None
        for turn, rows in enumerate(rounds):
            inputs = self._wishes.inputs(rows, batch)
            inputs |= self._mask(level, None if masks is None else masks[turn], batch)
            outputs = program.again(**inputs) if turn else program.run(logits=logits, **inputs)
            chosen.append(self._parts.device.fetch(outputs[0]))
        return tuple(chosen)

    def _mask(self, level: Part, masks: NDArray[np.int32] | None, batch: int) -> dict[str, Tensor]:
        """The input of levels that have one: what the rows may choose, everything if nobody says, padding too."""
        if Part.MASK not in level:
            return {}
        rows = np.full((batch, -(-self.info.vocab_size // 32)), -1, np.int32)
        if masks is not None:
            rows[: len(masks)] = masks
        return {"allowed": torch.from_numpy(rows)}

    @torch.inference_mode()
    def scrub(self) -> None:
        """A step has raised: let nothing that is not a number stay in the pools."""
        self._others["scrub"].run()

    def close(self) -> None:
        """Free the pools and the programs; the runner is of no use afterwards."""
        self._parts.pools.free()
        self._parts.forward.detach()
        for programs in self._tables:
            programs.clear()

    def _on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self._parts.device.torch) for name, value in inputs.items()}


def _pairs(copies: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    """The inputs of the program that copies blocks, padded with scratch."""
    pairs = np.zeros((COPIES, 2), np.int32)
    pairs[: len(copies)] = np.reshape(copies, (-1, 2))
    return {"source": torch.from_numpy(pairs[:, 0].copy()), "target": torch.from_numpy(pairs[:, 1].copy())}
