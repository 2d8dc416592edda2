"""A runner without a model: real bookkeeping, scripted tokens. What a device would get wrong, this one raises.

MODEL_ID `scripted` or `scripted?step=0.005&warmup=1&max_total=4096&max_input=…&seed=0&fail=a reason`: seconds per
step and for the whole warm-up, the limits, another text for each seed, a reason not to load.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from urllib.parse import parse_qsl

from models.plan import Bucket, Limits, Plan
from models.planner import plan_buckets
from models.step import LoadSpec, ModelInfo, Progress, Row, Sampled, Sampling, Step
from worker.script import EOS, VOCAB_SIZE, Script, write_tokenizer

EXIT_SCRIPTED = 75
"""The exit code of `!exit`."""


class ScriptBroken(RuntimeError):
    """The step would have given wrong tokens, or none, on a device."""


class CannotLoad(ValueError):
    """The scripted model's options do not work."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options behind `scripted?`."""

    step: float = 0.0
    warmup: float = 0.0
    max_total: int = 4096
    max_input: int = 0
    seed: int = 0
    fail: str = ""

    @classmethod
    def parse(cls, model_id: str) -> Settings:
        """The options of a model id; CannotLoad names the one that is wrong."""
        read = {"step": float, "warmup": float, "max_total": int, "max_input": int, "seed": int, "fail": str}
        given: dict[str, float | int | str] = {}
        for name, text in parse_qsl(model_id.partition("?")[2], keep_blank_values=True):
            if name not in read:
                raise CannotLoad(f"scripted has no option {name!r}: it has {', '.join(read)}")
            try:
                given[name] = read[name](text)
            except ValueError:
                raise CannotLoad(f"scripted: {name}={text!r} is not a number") from None
        return cls(**given)  # type: ignore[arg-type]


@dataclass(slots=True)
class Slot:
    """What one slot was opened for, and how far it has come."""

    script: Script
    tokens: list[int]
    output: int
    """How many of the tokens are output."""
    keys: list[int] = field(default_factory=list)
    """Per position what its K/V depend on: all tokens up to it."""

    def extend(self) -> None:
        """Keys for all tokens."""
        for token in self.tokens[len(self.keys) :]:
            self.keys.append(hash((self.keys[-1] if self.keys else None, token)))


@dataclass(frozen=True, slots=True)
class Running:
    """A launched step."""

    runner: ScriptedRunner
    step: Step

    def read(self) -> list[Sampled]:
        """Take the step's time, follow its directives, and say the tokens."""
        sampling = [row for row in self.step.rows if row.sample]
        slots = [self.runner.slots[row.slot] for row in sampling]
        seconds = self.runner.settings.step + sum(s.script.directives.get("slow", 0) for s in slots)
        if seconds:
            time.sleep(seconds)
        for row, slot in zip(sampling, slots, strict=True):
            _obey(slot.script.directives, row.position)
        sampled = [slot.script.token(row.position) for row, slot in zip(sampling, slots, strict=True)]
        for slot, token in zip(slots, sampled, strict=True):
            slot.tokens.append(token.id)
            slot.output += 1
            slot.extend()
        return sampled


def _obey(directives: dict[str, float], position: int) -> None:
    if directives.get("raise") == position:
        raise RuntimeError(f"scripted to raise at position {position}")
    if directives.get("exit") == position:
        os._exit(EXIT_SCRIPTED)
    while directives.get("hang") == position:
        time.sleep(3600)


class ScriptedRunner:
    """models.step.Runner over a table of what each KV block holds."""

    def __init__(self, info: ModelInfo, plan: Plan, settings: Settings) -> None:
        self.info, self.plan, self.settings = info, plan, settings
        self.slots: dict[int, Slot] = {}
        self._buckets = frozenset(plan.buckets)
        self._blocks = frozenset(range(1, plan.limits.num_blocks))
        self._tails: dict[
            int, int
        ] = {}  # block → the key of the position last written there, so of all below

    @property
    def compilations(self) -> int:
        """None, ever."""
        return 0

    def warm_up(self, progress: Progress) -> None:
        """Take the time it is told to."""
        for done, _ in enumerate(self.plan.buckets, 1):
            time.sleep(self.settings.warmup / len(self.plan))
            progress("warm-up", done, len(self.plan))

    def open(self, slot: int, prompt: Sequence[int], output: Sequence[int], sampling: Sampling) -> None:
        """The slot is another sequence's from now on."""
        _check(0 <= slot < self.plan.limits.slots, f"there is no slot {slot}")
        opened = Slot(Script(prompt, sampling, self.settings.seed), [*prompt, *output], len(output))
        opened.extend()
        self.slots[slot] = opened

    def launch(self, step: Step) -> Running:
        """Check all that a device would take on trust, then store the step's K/V."""
        bucket = step.bucket
        if bucket not in self._buckets:
            raise KeyError(f"{bucket} is not in the plan")
        _check(0 < len(step.rows) <= bucket.batch, "no rows, or more than its bucket")
        _check(len({row.slot for row in step.rows}) == len(step.rows), "two rows of one slot")
        for row in step.rows:
            self._check_row(row, bucket)
            self._check_context(row)
        self._check_writes(step.rows)
        for row in step.rows:
            self._write(row)
        return Running(self, step)

    def seconds(self, bucket: Bucket) -> float:
        """What every step takes."""
        return self.settings.step

    def close(self) -> None:
        """Forget everything."""
        self.slots.clear()
        self._tails.clear()

    def _check_row(self, row: Row, bucket: Bucket) -> None:
        _check(row.slot in self.slots, f"slot {row.slot} was not opened")
        slot, end = self.slots[row.slot], row.start + len(row.ids)
        _check(
            len(row.ids) <= bucket.query and len(row.blocks) <= bucket.blocks, "a row larger than its bucket"
        )
        _check(len(row.ids) > 0, "a row without tokens")
        _check(list(row.ids) == slot.tokens[row.start : end], "other tokens than the sequence has there")
        _check(row.sample == (end == len(slot.tokens)), "a token wanted before the last, or not after it")
        _check(row.position == slot.output, f"position {row.position}, but {slot.output} tokens are out")
        distinct = set(row.blocks)
        _check(len(distinct) == len(row.blocks), "a block twice in one table")
        _check(distinct <= self._blocks, "a block that is scratch or absent")
        _check(end <= len(row.blocks) * self.plan.limits.block_size, "a block table that is too short")

    def _check_context(self, row: Row) -> None:
        """The blocks must hold K/V of exactly this sequence's tokens at positions [0, start)."""
        keys, size, start = self.slots[row.slot].keys, self.plan.limits.block_size, row.start
        tails = keys[size - 1 : start : size]
        if start % size:
            tails.append(keys[start - 1])
        held = [self._tails.get(block) for block in row.blocks[: len(tails)]]
        _check(held == tails, "blocks that hold something else than the sequence's tokens")

    def _check_writes(self, rows: Sequence[Row]) -> None:
        """What one row writes no other may read or write in the same step."""
        size = self.plan.limits.block_size
        users = Counter(chain.from_iterable(row.blocks for row in rows))
        written = chain.from_iterable(row.blocks[row.start // size :] for row in rows)
        _check(all(users[block] == 1 for block in written), "a block that two rows share and one writes")

    def _write(self, row: Row) -> None:
        keys, size, end = self.slots[row.slot].keys, self.plan.limits.block_size, row.start + len(row.ids)
        for index in range(row.start // size, self.plan.limits.blocks_of(end)):
            self._tails[row.blocks[index]] = keys[min(end, (index + 1) * size) - 1]


def _check(right: bool, wrong: str) -> None:
    if not right:
        raise ScriptBroken(f"the step has {wrong}")


def load(spec: LoadSpec, progress: Progress) -> ScriptedRunner:
    """The runner, its tokenizer written to a folder of this user's own."""
    settings = Settings.parse(spec.model_id)
    progress("load", 0, 1)
    if settings.fail:
        raise CannotLoad(settings.fail)
    try:
        plan = plan_buckets(_limits(spec, settings))
    except ValueError as error:
        raise CannotLoad(str(error)) from error
    info = ModelInfo(
        model_id=spec.model_id,
        revision=spec.revision,
        folder=_tokenizer_folder(spec),
        device="scripted",
        dtype=spec.dtype or "float32",
        vocab_size=VOCAB_SIZE,
        eos_ids=(EOS,),
        max_position=plan.limits.max_total_tokens,
    )
    progress("load", 1, 1)
    return ScriptedRunner(info, plan, settings)


def _limits(spec: LoadSpec, settings: Settings) -> Limits:
    slots, block_size = spec.slots or 32, spec.block_size or 16
    total = spec.max_total_tokens or settings.max_total
    longest = -(-total // block_size)
    return Limits(
        slots=slots,
        block_size=block_size,
        num_blocks=spec.kv_blocks or 1 + longest * max(1, slots // 2),
        max_input_tokens=spec.max_input_tokens or settings.max_input or total - 1,
        max_total_tokens=total,
        prefill_chunk=spec.prefill_chunk or 256,
        prefill_batch=spec.prefill_batch or 4,
    )


def _tokenizer_folder(spec: LoadSpec) -> Path:
    """A folder that outlives the process, so that a killed one leaves nothing behind; always the same files."""
    base = Path(spec.cache_dir or tempfile.gettempdir())
    folder = base / f"sagrada-scripted-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise CannotLoad(f"{folder} belongs to somebody else: remove it, or set a cache directory")
    write_tokenizer(folder)
    return folder
