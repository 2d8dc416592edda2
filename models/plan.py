"""The plan of shapes: every bucket a step may run in, fixed before start. Integers, and a cost to compare them by.

A shape of a phase has two axes: prefill and score (tokens, context blocks), decode (rows, context blocks). The largest
feasible shape of each phase is always covered, so that no step the scheduler may take lacks a bucket.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass, field
from typing import Literal, get_args

from models.cost import EIGHT_BILLION, MACHINES, CostModel

Phase = Literal["prefill", "decode", "score"]
"""prefill: one row that packs chunks of several prompts. decode: one token per row. score: a chunk of one prompt, with
the log-probability of each of its tokens."""

Layout = Literal["gather", "flat"]
"""How decode finds its blocks. gather: a table of rows, as wide as the longest. flat: one list over all rows."""

PHASES: tuple[Phase, ...] = get_args(Phase)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

GATHER_TRAFFIC = 3
"""Times that a gathered block crosses the memory bus: read, written in order, read again by attention."""

REFERENCE = CostModel(MACHINES["gaudi2"], EIGHT_BILLION)
"""Compares buckets where nobody says what they run on."""


class OutsidePlan(KeyError):
    """No bucket of the plan covers the step: the scheduler has left the limits."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the sentence in quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server was configured to hold; ValueError, as a sentence, where that cannot work."""

    slots: int
    """Sequences that run at once."""
    block_size: int
    """Tokens per KV block."""
    num_blocks: int
    """KV blocks in the pool, block 0 (scratch) included."""
    max_input_tokens: int
    """Longest prompt."""
    max_total_tokens: int
    """Longest prompt and output together."""
    prefill_chunk: int
    """Most prompt tokens of one prefill step, over all the sequences packed in it."""
    prefill_batch: int
    """Most sequences packed in one prefill step."""
    layout: Layout = "gather"
    deterministic: bool = False
    """What a token is computed from hangs on its own sequence alone, never on who runs beside it: one prompt per
    prefill step, whole batches in gathered decode steps, one width of context per step."""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}: give one of {', '.join(LAYOUTS)}")
        for name in self.__slots__:
            if name not in ("layout", "deterministic") and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.deterministic and (self.layout, self.prefill_batch) != ("gather", 1):
            raise ValueError(
                f"deterministic steps take one prompt each and gather their blocks: with layout {self.layout} and "
                f"prefill_batch {self.prefill_batch} they could not; leave both out"
            )
        if self.max_input_tokens >= self.max_total_tokens:
            raise ValueError(
                f"max_input_tokens ({self.max_input_tokens}) must be below max_total_tokens "
                f"({self.max_total_tokens}): a prompt needs room for at least one new token"
            )
        if self.usable_blocks < self.max_blocks:
            raise ValueError(
                f"{self.num_blocks} KV blocks hold {self.usable_blocks * self.block_size} tokens, fewer than "
                f"max_total_tokens ({self.max_total_tokens}): give at least {self.max_blocks + 1} blocks, "
                "or lower max_total_tokens"
            )

    @property
    def usable_blocks(self) -> int:
        """Blocks that sequences may hold: all but the scratch block."""
        return self.num_blocks - 1

    @property
    def max_blocks(self) -> int:
        """Blocks of the longest sequence."""
        return self.blocks_of(self.max_total_tokens)

    @property
    def prefill_blocks(self) -> int:
        """Most context blocks of one prefill step: the longest sequence's, or every packed chunk's own."""
        return max(self.max_blocks, self.blocks_of(self.prefill_chunk) + self.prefill_batch - 1)

    def blocks_of(self, tokens: int) -> int:
        """Blocks that `tokens` cache positions take."""
        return -(-tokens // self.block_size)

    def most(self, phase: Phase) -> tuple[int, int]:
        """The largest x and the largest y of a phase's feasible shapes; not always of the same shape."""
        if phase == "prefill":
            return self.prefill_chunk, self.prefill_blocks
        if phase == "score":
            return min(self.prefill_chunk, self.max_blocks * self.block_size), self.max_blocks
        total = self.max_blocks if self.layout == "gather" else self.slots * self.max_blocks
        return min(self.slots, self.usable_blocks), min(total, self.usable_blocks)

    def feasible(self, phase: Phase, x: int, y: int) -> bool:
        """Whether a step may have that shape: x tokens (decode: rows) over y context blocks."""
        most_x, most_y = self.most(phase)
        if not (1 <= x <= most_x and 1 <= y <= most_y):
            return False
        if phase != "decode":
            return self.blocks_of(x) <= y
        if self.layout == "flat":
            return x <= y <= x * self.max_blocks
        return x + y - 1 <= self.usable_blocks


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One static shape. prefill: `query` tokens of up to `batch` sequences in one row; decode: `batch` rows of 1."""

    phase: Phase
    batch: int
    query: int
    blocks: int
    """Context blocks: of all rows together, in a gathered decode of the longest row."""

    @property
    def x(self) -> int:
        """The axis that is not blocks: rows of a decode, tokens of the others."""
        return self.batch if self.phase == "decode" else self.query

    def covers(self, x: int, blocks: int) -> bool:
        """Whether a step of that shape fits into this bucket."""
        return x <= self.x and blocks <= self.blocks


def bucket_of(limits: Limits, phase: Phase, x: int, blocks: int) -> Bucket:
    """The bucket of a phase with these two axes."""
    if phase == "decode":
        return Bucket(phase, x, 1, blocks)
    return Bucket(phase, limits.prefill_batch if phase == "prefill" else 1, x, blocks)


def seconds(costs: CostModel, limits: Limits, phase: Phase, x: int, blocks: int) -> float:
    """What a launch of exactly that shape costs."""
    context = blocks * limits.block_size
    if phase == "prefill":
        return costs.prefill(x, context)
    if phase == "score":
        return costs.score(x, context)
    return costs.decode(x, context if limits.layout == "flat" else GATHER_TRAFFIC * x * context)


@dataclass(frozen=True, slots=True)
class Plan:
    """The sealed set of buckets."""

    limits: Limits
    buckets: tuple[Bucket, ...]
    """The largest of each phase first, then those that save most: so they are warmed up."""
    costs: CostModel = field(default=REFERENCE, repr=False)
    _by_cost: dict[Phase, tuple[Bucket, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = sorted(self.buckets, key=lambda bucket: (self.cost(bucket), bucket))
        by_cost = {phase: tuple(b for b in ordered if b.phase == phase) for phase in PHASES}
        object.__setattr__(self, "_by_cost", by_cost)

    def prefill(self, query: int, blocks: int) -> Bucket:
        """The cheapest bucket for `query` tokens in all over `blocks` blocks in all; OutsidePlan."""
        return self.cheapest("prefill", query, blocks)

    def decode(self, batch: int, blocks: int) -> Bucket:
        """The cheapest bucket for `batch` rows over `blocks` blocks (gather: of the longest row); OutsidePlan."""
        return self.cheapest("decode", batch, blocks)

    def score(self, query: int, blocks: int) -> Bucket:
        """The cheapest bucket for `query` tokens of one prompt over its `blocks` blocks; OutsidePlan."""
        return self.cheapest("score", query, blocks)

    def cheapest(self, phase: Phase, x: int, blocks: int) -> Bucket:
        """The cheapest bucket of the phase that covers the shape; OutsidePlan."""
        if (bucket := self.find(phase, x, blocks)) is not None:
            return bucket
        what = "rows" if phase == "decode" else "tokens"
        raise OutsidePlan(f"no {phase} bucket covers {x} {what} over {blocks} blocks: raise the limits")

    def fits(self, phase: Phase, x: int, blocks: int) -> bool:
        """Whether a bucket of the phase covers the shape."""
        return self.find(phase, x, blocks) is not None

    def find(self, phase: Phase, x: int, blocks: int) -> Bucket | None:
        """The cheapest bucket of the phase that covers the shape, if one does.

        The first in order of cost: a scan of some dozen buckets, with nothing to keep in step.
        """
        return next((bucket for bucket in self._by_cost[phase] if bucket.covers(x, blocks)), None)

    def cost(self, bucket: Bucket) -> float:
        """Seconds that a launch of the bucket costs by the cost model."""
        return seconds(self.costs, self.limits, bucket.phase, bucket.x, bucket.blocks)

    def first(self, count: int) -> Plan:
        """Only the first `count` buckets, but at least the largest of each phase; so it still covers every step."""
        return Plan(self.limits, self.buckets[: max(count, len(PHASES))], self.costs)

    @property
    def digest(self) -> str:
        """128 bits in hex; equal for equal limits and buckets, whatever they were thought to cost."""
        text = repr((astuple(self.limits), sorted(astuple(bucket) for bucket in self.buckets)))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.buckets)
