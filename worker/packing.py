"""What one prefill step takes: chunks of several sequences one after another, as long as that pays."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from models.plan import Bucket, Plan
from worker.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `count` tokens of one sequence."""

    sequence: Sequence
    count: int

    def blocks(self, plan: Plan) -> int:
        """The blocks that its tokens look at, their own included."""
        return plan.limits.blocks_of(self.sequence.cached + self.count)


@dataclass(frozen=True, slots=True)
class Pack:
    """The chunks of one step and its bucket."""

    chunks: tuple[Chunk, ...]
    bucket: Bucket

    @property
    def tokens(self) -> int:
        """Of all chunks."""
        return sum(chunk.count for chunk in self.chunks)

    def blocks(self, plan: Plan) -> int:
        """The blocks that all chunks look at."""
        return sum(chunk.blocks(plan) for chunk in self.chunks)


def pack(plan: Plan, prefilling: Seq[Sequence]) -> Pack:
    """A chunk of the first, which always gets one, and of others, in order, as far as one launch costs less than two.

    The last one is cut so that the step is full; what is left of its bucket is filled with whoever still fits.
    """
    first, *others = prefilling
    limits = plan.limits
    alone = Chunk(first, min(first.pending, limits.prefill_chunk))
    if first.scoring or (limits.deterministic and first.prompt_logprobs):
        return Pack((alone,), plan.score(alone.count, alone.blocks(plan)))
    chosen = Pack((alone,), plan.prefill(alone.count, alone.blocks(plan)))
    if first.suspect:
        return chosen
    left_out = []
    for each in others:
        if each.suspect or each.scoring:
            continue
        joined = _join(plan, chosen, each)
        if joined is chosen:
            left_out.append(each)
        chosen = joined
    for each in left_out:
        chosen = _fill(plan, chosen, each)
    return chosen


def _join(plan: Plan, pack: Pack, sequence: Sequence) -> Pack:
    """With a chunk of the sequence too, if the step has room and that is cheaper than a step of its own."""
    limits, tokens = plan.limits, pack.tokens
    chunk = Chunk(sequence, min(sequence.pending, limits.prefill_chunk - tokens))
    if not chunk.count or len(pack.chunks) == limits.prefill_batch:
        return pack
    blocks = chunk.blocks(plan)
    if (bucket := plan.find("prefill", tokens + chunk.count, pack.blocks(plan) + blocks)) is None:
        return pack
    apart = plan.cost(pack.bucket) + plan.cost(plan.prefill(chunk.count, blocks))
    return Pack((*pack.chunks, chunk), bucket) if plan.cost(bucket) <= apart else pack


def _fill(plan: Plan, pack: Pack, sequence: Sequence) -> Pack:
    """With as much of the sequence as the bucket would else pad."""
    room = pack.bucket.query - pack.tokens
    chunk = Chunk(sequence, min(sequence.pending, room))
    if chunk.count < 1 or len(pack.chunks) == plan.limits.prefill_batch:
        return pack
    if pack.blocks(plan) + chunk.blocks(plan) > pack.bucket.blocks:
        return pack
    return Pack((*pack.chunks, chunk), pack.bucket)
