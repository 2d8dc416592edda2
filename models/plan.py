"""The plan of shapes: every bucket a step may run in, fixed before start. Integers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server was configured to hold."""

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


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One static shape: `batch` rows of `query` tokens over block tables of `blocks` entries."""

    phase: Phase
    batch: int
    query: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The sealed set of buckets."""

    limits: Limits
    buckets: tuple[Bucket, ...]
