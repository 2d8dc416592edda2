"""A sequence: what is in flight of one choice of a job, from admission until it leaves the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.step import Sampling


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Integers only. The scheduler owns and changes it."""

    seq: int
    """The parent's number for it."""
    prompt: tuple[int, ...]
    output: list[int]
    """What earlier attempts delivered, then what this one samples."""
    sampling: Sampling
    max_new_tokens: int
    ignore_eos: bool = False
    age: int = 0
    """Order of admission: a smaller age goes first and is preempted last."""
    slot: int | None = None
    """None while it waits."""
    opened: bool = False
    """Whether the runner knows that the slot is this sequence's."""
    blocks: list[int] = field(default_factory=list)
    """Its KV blocks, in order of position."""
    cached: int = 0
    """Positions whose K/V are in the blocks."""
    suspect: bool = False
    """A step that it was part of has raised: it runs by itself until a token of it is sampled."""

    @property
    def length(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.prompt) + len(self.output)

    @property
    def pending(self) -> int:
        """Tokens still to run before the next one can be sampled, >= 1; exactly 1: it is decoding."""
        return self.length - self.cached

    def tokens(self, start: int, end: int) -> list[int]:
        """The tokens at positions [start, end)."""
        split = len(self.prompt)
        if start >= split:
            return self.output[start - split : end - split]
        return [*self.prompt[start:end], *self.output[: max(0, end - split)]]
