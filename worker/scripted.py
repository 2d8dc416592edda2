"""A runner without a model: real bookkeeping, scripted tokens. What a device would get wrong, this one raises.

MODEL_ID `scripted` or `scripted?step=0.005&warmup=1&max_total=4096&max_input=…&depth=1&seed=0&fail=a reason`: seconds
per step and for the whole warm-up, the limits, steps in flight, another text for each seed, a reason not to load.
`control=/a/folder` lets a test hold it in a phase: `pace` in there is the seconds of the next step, from one step to
the next, and `steps` gets a line for each.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from urllib.parse import parse_qsl

from models.plan import Bucket, Limits, Plan
from models.planner import plan_buckets
from models.step import Allowed, LoadSpec, ModelInfo, Outcome, Progress, Row, Sampled, Sampling, Step
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
    depth: int = 1
    seed: int = 0
    fail: str = ""
    control: str = ""

    @classmethod
    def parse(cls, model_id: str) -> Settings:
        """The options of a model id; CannotLoad names the one that is wrong."""
        read = {"step": float, "warmup": float, "max_total": int, "max_input": int, "depth": int, "seed": int}
        read |= {"fail": str, "control": str}
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
    sampled: bool = False
    """Whether it has said one of them itself: a decode row reads that one."""
    keys: list[int] = field(default_factory=list)
    """Per position what its K/V depend on: all tokens up to it."""

    def say(self, position: int, allowed: bytes = b"") -> Sampled:
        """Its next token, which the slot then holds: the script's, or the first of those that are allowed."""
        token = self.script.token(position)
        if allowed and not _has(allowed, token.id):
            token = Sampled(next(id for id in range(VOCAB_SIZE) if _has(allowed, id)), token.logprob)
        self.tokens.append(token.id)
        self.output += 1
        self.sampled = True
        self.extend()
        return token

    def extend(self) -> None:
        """Keys for all tokens."""
        for token in self.tokens[len(self.keys) :]:
            self.keys.append(hash((self.keys[-1] if self.keys else None, token)))


@dataclass(frozen=True, slots=True)
class Running:
    """A launched step."""

    runner: ScriptedRunner
    done: float
    """When the device will be through with it."""
    outcome: Outcome
    obey: tuple[tuple[dict[str, float], int], ...]
    """The directives of the rows that sample, and their positions."""

    def read(self) -> Outcome:
        """Wait for the device, follow the directives, and say the tokens."""
        time.sleep(max(0.0, self.done - time.monotonic()))
        for directives, position in self.obey:
            _obey(directives, position)
        return self.outcome


class Control:
    """The folder through which a test holds the runner and counts its steps."""

    def __init__(self, folder: Path) -> None:
        self._pace = folder / "pace"
        self._steps = (folder / "steps").open("a", buffering=1)

    def seconds(self) -> float:
        """Of the step to be launched."""
        return float(self._pace.read_text())

    def note(self, phase: str, rows: Iterable[tuple[Row, Slot]]) -> None:
        """A launched step: its phase, and for each row the first word of its prompt and how many tokens run."""
        said = (f"{slot.script.first_word}:{row.count}" for row, slot in rows)
        self._steps.write(f"{phase} {' '.join(said)}\n")

    def close(self) -> None:
        """No more steps."""
        self._steps.close()


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
        self.info, self.plan, self.whole, self.settings = info, plan, plan, settings
        self.depth = settings.depth
        self._control = Control(Path(settings.control)) if settings.control else None
        self.slots: dict[int, Slot] = {}
        self._done = 0.0
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

    def grow(self, progress: Progress) -> None:
        """It is whole."""

    def open(self, slot: int, prompt: Sequence[int], output: Sequence[int], sampling: Sampling) -> None:
        """The slot is another sequence's from now on."""
        _check(0 <= slot < self.plan.limits.slots, f"there is no slot {slot}")
        opened = Slot(Script(prompt, sampling, self.settings.seed), [*prompt, *output], len(output))
        opened.extend()
        self.slots[slot] = opened

    def launch(self, step: Step, allowed: Allowed | None = None) -> Running:
        """Check all that a device would take on trust, then store the step's K/V."""
        bucket = step.bucket
        if bucket not in self._buckets:
            raise KeyError(f"{bucket} is not in the plan")
        _check(0 < len(step.rows) <= bucket.batch, "no rows, or more than its bucket")
        slots = [slot for row in step.rows for slot in (row.slot, *row.forks)]
        _check(len({*slots}) == len(slots), "two rows of one slot")
        self._check_shape(step)
        self._copy(step.copies)
        for row in step.rows:
            self._check_row(row)
            self._check_context(row)
        self._check_writes(step.rows)
        for row in step.rows:
            self._write(row)
        chosen = [row for rows in step.rounds for row in rows]
        constrained = any(row.sample and self.slots[row.slot].script.constrained for row in chosen)
        _check(constrained == (allowed is not None), "a constraint and no masks, or masks and no constraint")
        return self._run(step, _rows(allowed()) if allowed else [b""] * len(chosen))

    def _run(self, step: Step, masks: list[bytes]) -> Running:
        """The tokens are known at once; the device takes its time, one step after another."""
        rows = [(row, self.slots[row.slot]) for row in step.rows]
        chosen = [row for turn in step.rounds for row in turn]
        sampling = [(row, self.slots[row.slot]) for row in chosen if row.sample]
        said = [mask for row, mask in zip(chosen, masks, strict=True) if row.sample]
        sampled = [slot.say(row.position, mask) for (row, slot), mask in zip(sampling, said, strict=True)]
        obey = tuple((slot.script.directives, row.position) for row, slot in sampling)
        scores = [self._score(row.start + index) for row, _ in rows for index in range(len(row.targets))]
        seconds = self.settings.step + sum(slot.script.directives.get("slow", 0) for _, slot in rows)
        if self._control:
            seconds += self._control.seconds()
            self._control.note(step.bucket.phase, rows)
        self._done = max(self._done, time.monotonic()) + seconds
        return Running(self, self._done, Outcome(sampled, scores), obey)

    @staticmethod
    def _score(position: int) -> float:
        """What a prompt's token after that position has for a log-probability."""
        return -(1 + position % 16) / 16

    def scrub(self) -> None:
        """A script has no numbers."""

    def seconds(self, bucket: Bucket) -> float:
        """What every step takes."""
        return self.settings.step

    def close(self) -> None:
        """Forget everything."""
        self.slots.clear()
        self._tails.clear()
        if self._control:
            self._control.close()

    def _check_shape(self, step: Step) -> None:
        """The rows must fit their bucket, by the axes of its phase."""
        bucket, widths = step.bucket, [len(row.blocks) for row in step.rows]
        decode = bucket.phase == "decode"
        tokens = len(step.rows) if decode else sum(row.count for row in step.rows)
        gathers = decode and self.plan.limits.layout == "gather"
        blocks = max(widths) if gathers else sum(widths)
        _check(bucket.covers(tokens, blocks), "rows larger than their bucket")
        _check(all(decode == (not row.ids) for row in step.rows), "a decode row with ids, or a chunk without")
        _check(bucket.phase == "score" or not any(row.targets for row in step.rows), "targets and no scores")

    def _check_row(self, row: Row) -> None:
        _check(row.slot in self.slots, f"slot {row.slot} was not opened")
        slot, end = self.slots[row.slot], row.start + row.count
        ids = list(row.ids) if row.ids else slot.tokens[-1:]
        _check(bool(row.ids) or slot.sampled, "a decode row of a slot that has sampled nothing")
        _check(ids == slot.tokens[row.start : end], "other tokens than the sequence has there")
        targets = slot.tokens[row.start + 1 : row.start + 1 + len(row.targets)]
        _check(list(row.targets) == targets, "targets that are not the next tokens")
        _check(row.sample == (end == len(slot.tokens)), "a token wanted before the last, or not after it")
        _check(row.position == slot.output, f"position {row.position}, but {slot.output} tokens are out")
        distinct = set(row.blocks)
        _check(len(distinct) == len(row.blocks), "a block twice in one table")
        _check(distinct <= self._blocks, "a block that is scratch or absent")
        _check(end <= len(row.blocks) * self.plan.limits.block_size, "a block table that is too short")

        for fork in row.forks:
            _check(row.sample and fork in self.slots, "a fork of a row that samples nothing, or of no slot")
            _check(self.slots[fork].tokens == slot.tokens, "a fork whose tokens are others")

    def _copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """The blocks' content, one after another."""
        _check(len({target for _, target in copies}) == len(copies), "two copies onto one block")
        for source, target in copies:
            _check({source, target} <= self._blocks, "a copy from or to a block that is scratch or absent")
            self._tails.pop(target, None)
            if source in self._tails:
                self._tails[target] = self._tails[source]

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
        keys, size, end = self.slots[row.slot].keys, self.plan.limits.block_size, row.start + row.count
        for index in range(row.start // size, self.plan.limits.blocks_of(end)):
            self._tails[row.blocks[index]] = keys[min(end, (index + 1) * size) - 1]


def _rows(masks: memoryview) -> list[bytes]:
    """The mask of each row."""
    flat, width = masks.cast("B"), -(-VOCAB_SIZE // 32) * 4
    return [bytes(flat[at : at + width]) for at in range(0, len(flat), width)]


def _has(mask: bytes, id: int) -> bool:
    """Whether that bit is set."""
    return bool(mask[id // 8] >> id % 8 & 1)


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
        watermark=spec.watermark_gamma > 0,
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
        prefill_batch=spec.prefill_batch or (1 if spec.deterministic else 8),
        deterministic=spec.deterministic,
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
