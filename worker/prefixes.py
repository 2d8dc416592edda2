"""Which of a sequence's blocks others may begin with, and which of theirs it may begin with itself."""

from __future__ import annotations

import math

from models.blocks import BlockPool
from models.plan import Limits
from worker.sequence import Sequence


class Prefixes:
    """The prefix cache as the scheduler uses it.

    Deterministic limits share whole prefill chunks of prompts only: what every prompt that begins so would compute in
    the same shapes, and what leaves the chunks after it where they would be without.
    """

    def __init__(self, pool: BlockPool, limits: Limits, enabled: bool) -> None:
        self._pool, self._limits, self._enabled = pool, limits, enabled

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks in the cache that it can begin with: never its last token's, for that one must run."""
        if not self._enabled or sequence.scoring:
            return []
        limits, size = self._limits, self._limits.block_size
        found = self._pool.find(sequence.keys_of((sequence.length - 1) // size, size))
        if not limits.deterministic:
            return found
        unit = math.lcm(limits.prefill_chunk, size) // size
        return [] if sequence.prompt_logprobs else found[: len(found) // unit * unit]

    def publish(self, sequence: Sequence) -> None:
        """Let others find the blocks that are full, accepted and read."""
        if not self._enabled:
            return
        size = self._limits.block_size
        full = min(sequence.settled, self._lasting(sequence)) // size
        if full > sequence.published:
            keys = sequence.keys_of(full, size)
            for index in range(sequence.published, full):
                self._pool.publish(sequence.blocks[index], keys[index])
            sequence.published = full

    def _lasting(self, sequence: Sequence) -> int:
        """Its first tokens whose K/V others may use."""
        if not self._limits.deterministic:
            return sequence.length
        chunk = self._limits.prefill_chunk
        return 0 if sequence.prompt_logprobs else len(sequence.prompt) // chunk * chunk
