"""A sequence: what is in flight of one choice of a job, from admission until it leaves the engine."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.prefix import block_key
from models.step import Sampling

if TYPE_CHECKING:
    from models.grammar import Matcher

NO_BOUND = sys.maxsize
"""What a sequence is allowed that waits for nobody."""


def _no_blocks() -> array[int]:
    return array("q")


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Integers only. The scheduler owns and changes it.

    Of its tokens, `output` is what has been read; `unread` more have been sampled by steps that are still on their
    way. While any step of its is, it keeps slot and blocks, whatever happens to it.
    """

    seq: int
    """The parent's number for it."""
    prompt: tuple[int, ...]
    output: list[int]
    """What earlier attempts delivered, then what this one has read."""
    sampling: Sampling
    max_new_tokens: int
    ignore_eos: bool = False
    prompt_logprobs: bool = False
    """Its prompt tokens' log-probabilities are wanted: nothing is taken from the prefix cache."""
    root: bytes = b""
    """The prefix key that its first block has as parent."""
    group: int = 0
    """Sequences of one group have the same prompt, and one prefill while they have no output; 0: it is alone."""
    age: int = 0
    """Order of admission: a smaller age goes first and is preempted last."""
    passed: int = 0
    """Younger sequences that have started before it while it did not fit."""
    slot: int | None = None
    """None while it waits."""
    opened: bool = False
    """Whether the runner knows that the slot is this sequence's."""
    decoding: bool = False
    """Whether the slot holds its last token, sampled there: all that is left to run is one token at a time."""
    blocks: array[int] = field(default_factory=_no_blocks)
    """Its KV blocks, in order of position."""
    cached: int = 0
    """Positions whose K/V are in the blocks, or will be when the launched steps are done."""
    settled: int = 0
    """Positions whose K/V are there for certain: their steps were read."""
    published: int = 0
    """Its first blocks that can be found in the prefix cache."""
    keys: list[bytes] = field(default_factory=list)
    """The prefix keys of its full blocks, as far as they were asked for."""
    scores: list[float] = field(default_factory=list)
    """Log-probabilities of prompt[1:], as far as they are known."""
    flying: int = 0
    """Launched steps that it is part of and that are not settled."""
    unread: int = 0
    """Tokens that those steps sample for it."""
    ended: bool = False
    """It will not run again, and leaves when none of its steps is on its way."""
    suspect: bool = False
    """A step that it was part of has raised: it runs by itself until a new token of it is sampled."""
    replay: list[int] = field(default_factory=list)
    """Deterministic: the tokens that it is known to begin with, computed anew since it last started."""
    diverged: bool = False
    """Another token than the known one came out: it starts again from those that are known."""
    matcher: Matcher | None = None
    """Where its grammar stands; None: it may say anything."""
    allowed: int = NO_BOUND
    """Output tokens that it may have before the parent, whose log is to take them, allows more."""
    turn: int = 0
    """The number of its last decode step."""

    @property
    def length(self) -> int:
        """Tokens of prompt and output so far, the unread ones included."""
        return len(self.prompt) + len(self.output) + self.unread

    @property
    def pending(self) -> int:
        """Tokens still to run before the next one can be sampled, >= 1."""
        return self.length - self.cached

    @property
    def full(self) -> bool:
        """Whether all the tokens it asked for are sampled."""
        return len(self.output) + self.unread >= self.max_new_tokens

    @property
    def held(self) -> bool:
        """Whether it waits, with its slot and blocks, until it is allowed more tokens."""
        return len(self.output) + self.unread >= self.allowed

    @property
    def fresh(self) -> bool:
        """Whether it has nothing yet but its prompt."""
        return not (self.output or self.replay or self.suspect)

    @property
    def scoring(self) -> bool:
        """Whether its prompt must run so that it is scored."""
        return self.prompt_logprobs and len(self.scores) < len(self.prompt) - 1

    def tokens(self, start: int, end: int) -> list[int]:
        """The tokens at positions [start, end), all of them read."""
        split = len(self.prompt)
        if start >= split:
            return self.output[start - split : end - split]
        return [*self.prompt[start:end], *self.output[: max(0, end - split)]]

    def keys_of(self, count: int, block_size: int) -> list[bytes]:
        """The prefix keys of its first `count` blocks, which must be full of tokens that were read."""
        for index in range(len(self.keys), count):
            parent = self.keys[-1] if self.keys else self.root
            self.keys.append(block_key(parent, self.tokens(index * block_size, (index + 1) * block_size)))
        return self.keys[:count]

    @property
    def replaying(self) -> bool:
        """Whether its next token is known."""
        return len(self.output) < len(self.replay)

    def rewind(self) -> None:
        """Let all its tokens be computed anew, in the shapes that they were computed in; unless that went wrong."""
        known = [*self.output, *self.replay[len(self.output) :]]
        self.replay, self.output[:] = ([], known) if self.diverged else (known, [])
        self.diverged = False

    def reset(self) -> None:
        """It holds nothing any more, and would begin from its first token."""
        self.slot, self.opened, self.decoding, self.blocks = None, False, False, _no_blocks()
        self.cached = self.settled = self.published = self.flying = self.unread = 0
        if self.scoring:
            self.scores.clear()
