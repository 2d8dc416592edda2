"""What the scheduler asks of a runner and what it answers: one step of the engine, as plain integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from models.plan import Bucket, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one sequence's tokens are chosen; the neutral value of each filter switches it off."""

    seed: int = 0
    """uint64; the noise is a hash of (seed, position, token)."""
    do_sample: bool = False
    """False: greedy, and temperature and filters are not applied (penalties are)."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    min_new_tokens: int = 0
    """The model's end-of-sequence ids and `stop_token_ids` cannot be chosen at positions below this."""
    stop_token_ids: tuple[int, ...] = ()
    """Further ids that end this sequence, whatever it does about the model's."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(id, what is added to its logit), each id once; before penalties."""
    watermark: bool = False
    """Where the runner was loaded with one: ModelInfo.watermark."""
    top_n: int = 0
    """How many of the likeliest tokens to report beside the chosen one, at most models.sampler.MOST_TOP_N."""
    constrained: bool = False
    """Whether each step says which tokens may be chosen; that has the end's ban in it, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence's part in a step."""

    slot: int
    """Its row in slot-indexed state (penalty counts), 0 <= slot < plan.limits.slots; set by `Runner.open`."""
    ids: Sequence[int]
    """The tokens to run, a chunk of what is prefilled; empty in a decode row: the token that its slot sampled last."""
    start: int
    """The cache position of ids[0]: the K/V of positions [0, start) are in the blocks already."""
    blocks: Sequence[int]
    """Its block table, covering at least start + len(ids) positions; block 0 is scratch and never in it."""
    sample: bool
    """Whether the token after ids[-1] is wanted (not for a chunk before the prompt's last)."""
    position: int
    """The index of that token in the sequence's output, from 0: what the noise and min_new_tokens go by."""
    forks: Sequence[int] = ()
    """Further slots whose sequences have the same tokens, and whose next one is sampled from this row's logits too."""
    targets: Sequence[int] = ()
    """In a score row: the prompt tokens whose log-probability is wanted, targets[i] being the one after ids[i]."""

    @property
    def count(self) -> int:
        """Tokens that it runs."""
        return len(self.ids) or 1

    def fork(self, turn: int) -> Row:
        """The row as that fork's; one that samples nothing if there is none."""
        there = turn < len(self.forks)
        return replace(self, slot=self.forks[turn] if there else self.slot, sample=self.sample and there)


@dataclass(frozen=True, slots=True)
class Step:
    """One launch: its bucket and the rows that fill it, len(rows) <= bucket.batch."""

    bucket: Bucket
    rows: tuple[Row, ...]
    copies: tuple[tuple[int, int], ...] = ()
    """(from, to): KV blocks that are copied before all else, in this order; none is written twice."""

    @property
    def rounds(self) -> list[tuple[Row, ...]]:
        """What is sampled: the rows themselves, then the first fork of each that has one, and so on."""
        rounds = [self.rows]
        for turn in range(max((len(row.forks) for row in self.rows), default=0)):
            rounds.append(tuple(row.fork(turn) for row in self.rows))
        return rounds


@dataclass(frozen=True, slots=True)
class Sampled:
    """The token chosen for one row."""

    id: int
    logprob: float
    """Of that token under the model's own distribution (after bias and penalties, before temperature and filters)."""
    top: tuple[tuple[int, float], ...] = ()
    """(id, logprob) of the `top_n` likeliest tokens, likeliest first; fewer if fewer are possible."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave."""

    sampled: list[Sampled]
    """One entry per row with `sample`, in the order of the step's rounds and their rows."""
    scores: list[float] = field(default_factory=list)
    """Of a score step: the log-probabilities of its row's targets."""


class Pending(Protocol):
    """A step that was launched and may still be running."""

    def read(self) -> Outcome:
        """Wait for the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a loaded model says of itself."""

    model_id: str
    revision: str
    folder: Path
    """Where config, weights and tokenizer files lie (Hugging Face format)."""
    device: str
    dtype: str
    vocab_size: int
    eos_ids: tuple[int, ...]
    max_position: int
    """Most tokens of prompt and output together that the model was built for."""
    parameters: int = 0
    watermark: bool = False
    """Whether its sampler can watermark."""
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What K/V depends on besides tokens; two runners of one identity compute the same."""
        return f"{self.model_id}@{self.revision} {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """What to load and how much of it to serve; 0 or an empty string: the loader chooses."""

    model_id: str
    """A folder in Hugging Face format, a name on the hub, or `demo`."""
    revision: str = ""
    device: str = ""
    """cpu, cuda or hpu."""
    dtype: str = ""
    """float32, bfloat16, float16 or float64."""
    slots: int = 0
    block_size: int = 0
    kv_blocks: int = 0
    """KV blocks in the pool, scratch included; 0: what memory allows."""
    max_input_tokens: int = 0
    max_total_tokens: int = 0
    prefill_chunk: int = 0
    prefill_batch: int = 0
    layout: str = ""
    """How decode reads the KV blocks: gather or flat."""
    depth: int = 0
    """Steps in flight."""
    graphs: int = 0
    """Most buckets of the plan."""
    warm_up_seconds: int = 0
    """What warm-up may take, which then says how many buckets there are, unless `graphs` does."""
    histogram: str = ""
    """File of the shapes that launches had: read for the plan, written with what is counted; empty: none."""
    recipes: str = ""
    """Folder where what was compiled, and what fitted, is kept for the next start; empty: none."""
    ready_buckets: int = 0
    """How many buckets, of each phase the largest first, must be warm before jobs are taken; 0: the device chooses."""
    prefix_cache: bool = True
    """Whether full blocks are found again by later prompts."""
    watermark_gamma: float = 0.0
    """The share of the vocabulary that a watermark favours, (0, 1); 0: there is none."""
    watermark_delta: float = 2.0
    """What it adds to their logits."""
    deterministic: bool = False
    """Whether a text is the same, to the bit of its logits, whoever runs beside it and wherever it is resumed."""
    cache_dir: str = ""
    """Where files from the hub are kept; empty: huggingface_hub's own place."""
    offline: bool = False
    """Take files from the cache only."""
    token: str = field(default="", repr=False)
    """The hub's access token; empty: what huggingface_hub finds by itself, in the engine child HF_TOKEN."""


Allowed = Callable[[], memoryview]
"""Gives int32 [rounds x rows, ceil(V / 32)]: the tokens that each row may choose, bit i of word w for 32 w + i."""

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total) while loading and warming up."""


class Runner(Protocol):
    """A loaded model. All calls come from one thread."""

    info: ModelInfo
    plan: Plan
    """The buckets that are warm: a step's is one of them."""
    whole: Plan
    """Those that will be."""
    depth: int
    """Steps that may be launched before the first of them is read, >= 1."""

    def warm_up(self, progress: Progress) -> None:
        """Build and execute the buckets without which no job is taken, largest first."""

    def grow(self, progress: Progress) -> None:
        """Build and execute one bucket more, after which `plan` is larger; nothing if it is whole, and sealed."""

    def open(self, slot: int, prompt: Sequence[int], output: Sequence[int], sampling: Sampling) -> None:
        """Give `slot` to a sequence: its sampling, and what penalties count (prompt and output so far)."""

    def launch(self, step: Step, allowed: Allowed | None = None) -> Pending:
        """Start one step. A bucket outside the plan is a KeyError, never a compilation.

        `allowed` is for a step in which a constrained row samples. It is called when the model's part is launched and
        the sampler's is not; what it raises is raised, and the step is lost.
        """

    def scrub(self) -> None:
        """A step has raised, and may have left what is not a number in blocks that others will hold: put it right."""

    @property
    def compilations(self) -> int:
        """Programs built since warm-up: 0, or the plan was left."""

    def seconds(self, bucket: Bucket) -> float:
        """How long that bucket took in warm-up; the watchdog's measure."""

    def close(self) -> None:
        """Free the device."""
