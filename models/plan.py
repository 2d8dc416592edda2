"""The plan of shapes: every bucket a step may run in, fixed before start. Integers only.

Each phase has a grid of buckets; a step runs in the cheapest one that covers it. The largest feasible shape
of each phase is always a bucket, so that no step the scheduler may take lacks one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from itertools import pairwise, product
from typing import Literal

Phase = Literal["prefill", "decode"]

DEFAULT_BUCKETS = 64
"""Most buckets of a plan: where the padding saved by another bucket no longer pays for its warm-up."""

SMALLEST_QUERY = 16
"""Tokens of the shortest prefill bucket: below this a launch costs the same."""

COARSENESS = ((2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (8, 8, 8), (16, 16, 16), (64, 64, 64))
"""Factors between neighbouring rungs of the (batch, query, blocks) ladders, finest first."""

LAUNCH_COST, TOKEN_COST = 16_384, 1_024
"""What a launch and a token through the linear layers cost, in units of one query-key pair of attention."""


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
    """Most prompt tokens of one row in one step."""
    prefill_batch: int
    """Most rows in one prefill step."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
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

    def blocks_of(self, tokens: int) -> int:
        """Blocks that `tokens` cache positions take."""
        return -(-tokens // self.block_size)

    def feasible(self, batch: int, query: int, blocks: int) -> bool:
        """Whether the pool can hold `batch` rows, the longest `blocks` blocks and `query` tokens."""
        return self.blocks_of(query) <= blocks and blocks + batch - 1 <= self.usable_blocks


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One static shape: `batch` rows of `query` tokens over block tables of `blocks` entries."""

    phase: Phase
    batch: int
    query: int
    blocks: int

    def covers(self, batch: int, query: int, blocks: int) -> bool:
        """Whether a step of that shape fits into this bucket."""
        return batch <= self.batch and query <= self.query and blocks <= self.blocks


@dataclass(frozen=True, slots=True)
class Plan:
    """The sealed set of buckets."""

    limits: Limits
    buckets: tuple[Bucket, ...]
    _by_cost: dict[Phase, tuple[Bucket, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = sorted(self.buckets, key=self.cost)
        phases: tuple[Phase, Phase] = ("prefill", "decode")
        by_cost = {phase: tuple(b for b in ordered if b.phase == phase) for phase in phases}
        object.__setattr__(self, "_by_cost", by_cost)

    def prefill(self, batch: int, query: int, blocks: int) -> Bucket:
        """The cheapest bucket for `batch` rows of at most `query` tokens and `blocks` blocks; OutsidePlan."""
        return self._cheapest("prefill", batch, query, blocks)

    def decode(self, batch: int, blocks: int) -> Bucket:
        """The cheapest bucket for `batch` rows of one token and at most `blocks` blocks; OutsidePlan."""
        return self._cheapest("decode", batch, 1, blocks)

    def cost(self, bucket: Bucket) -> int:
        """What a launch of the bucket costs, in query-key pairs: rough, good enough to compare buckets."""
        context = bucket.blocks * self.limits.block_size
        return LAUNCH_COST + bucket.batch * (bucket.query * (TOKEN_COST + context) + context)

    @property
    def digest(self) -> str:
        """128 bits in hex; equal for equal limits and buckets."""
        text = repr((astuple(self.limits), sorted(astuple(bucket) for bucket in self.buckets)))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.buckets)

    def _cheapest(self, phase: Phase, batch: int, query: int, blocks: int) -> Bucket:
        for bucket in self._by_cost[phase]:
            if bucket.covers(batch, query, blocks):
                return bucket
        raise OutsidePlan(
            f"no {phase} bucket covers {batch} rows of {query} tokens over {blocks} blocks: raise the limits"
        )


def plan_buckets(limits: Limits, most: int = DEFAULT_BUCKETS) -> Plan:
    """The plan of at most `most` buckets (>= 2), half of them for each phase, spread geometrically."""
    decode = _grid(limits, "decode", (limits.slots, 1, limits.max_blocks), most // 2)
    prefill = _grid(
        limits, "prefill", (limits.prefill_batch, limits.prefill_chunk, limits.max_blocks), most - len(decode)
    )
    return Plan(limits, (*prefill, *decode))


def _grid(limits: Limits, phase: Phase, top: tuple[int, int, int], most: int) -> list[Bucket]:
    """The finest grid of at most `most` buckets up to the feasible part of `top` (batch, query, blocks)."""
    batch, query, blocks = top
    tops = (min(batch, limits.slots, limits.usable_blocks), min(query, limits.max_total_tokens), blocks)
    floors = (1, min(SMALLEST_QUERY, tops[1]), 1)
    for factors in COARSENESS:
        ladders = [_ladder(*axis) for axis in zip(floors, tops, factors, strict=True)]
        grid = [Bucket(phase, b, q, n) for b, q, n in _reachable(limits, *ladders)]
        if len(grid) <= most:
            return grid
    return [Bucket(phase, *tops)]


def _ladder(floor: int, top: int, factor: int) -> tuple[int, ...]:
    """Rungs from `floor` or more up to `top`, each at most `factor` times the one below."""
    rungs = [top]
    while rungs[-1] > floor:
        rungs.append(max(floor, -(-rungs[-1] // factor)))
    return tuple(reversed(rungs))


def _reachable(
    limits: Limits, batches: tuple[int, ...], queries: tuple[int, ...], blocks: tuple[int, ...]
) -> Iterator[tuple[int, int, int]]:
    """The corners that some feasible shape rounds up to; the smallest such shape is the easiest to hold."""
    steps = (tuple(pairwise((0, *ladder))) for ladder in (batches, queries, blocks))
    for (below_b, batch), (below_q, query), (below_n, block) in product(*steps):
        smallest = max(below_n + 1, limits.blocks_of(below_q + 1))
        if smallest <= block and limits.feasible(below_b + 1, below_q + 1, smallest):
            yield batch, query, block
