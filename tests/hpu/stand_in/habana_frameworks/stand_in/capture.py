"""HPU Graphs: operations kept as they ran, to be run again on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .recipes import COMPILER, Graph, Saved
from .streams import TIME, Stream, poison


@dataclass(frozen=True, slots=True)
class Kept:
    """One operation on the host's view of the card's memory."""

    kernel: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    fresh: Sequence[Tensor]
    """What it gave besides what it wrote in place."""

    def again(self) -> None:
        """Its results go where they went."""
        given = self.kernel(*self.args, **self.kwargs)
        for to, value in zip(self.fresh, tensors(given), strict=True) if self.fresh else ():
            to.copy_(value)


def tensors(value: object) -> list[Tensor]:
    """All tensors in what an operation gave, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [each for part in value for each in tensors(part)] if isinstance(value, (list, tuple)) else []


@dataclass
class Tape:
    """What one HPU Graph holds: its operations, and the memory of all that lies between them."""

    stream: Stream
    dry: bool
    """Nothing is launched while it is captured."""
    operations: list[Kept] = field(default_factory=list)
    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    keys: list[Hashable] = field(default_factory=list)
    """The recipes: one, or one more for each `mark_step` in it."""
    saved: Saved = field(default_factory=Saved)
    made: list[Tensor] = field(default_factory=list)
    """What was allocated for it, as the host sees it."""
    graph: Graph = field(default_factory=Graph)

    def keep(self, operation: Kept, reads: set[int], writes: set[int]) -> None:
        """One more operation."""
        self.operations.append(operation)
        self.reads |= reads
        self.writes |= writes

    def split(self) -> None:
        """What was captured until now is a recipe of its own."""
        if self.graph:
            self.keys.append(self.graph.key)
        self.graph = Graph()

    def end(self) -> None:
        """Compile; what it gave while it was captured is nobody's result."""
        self.split()
        for key in self.keys:
            COMPILER.compile(key) if self.dry else COMPILER.launch(key)
        if self.dry:
            self.saved.restore()
        for made in self.made:
            poison(made)

    def replay(self) -> None:
        """All of it once more, on the current stream."""
        TIME.launch(self.reads, self.writes)
        for key in self.keys:
            COMPILER.launch(key)
        for kept in self.operations:
            kept.again()


class Capturing:
    """Whether a graph is being captured: one at a time."""

    def __init__(self) -> None:
        self.tape: Tape | None = None

    def begin(self, dry: bool) -> None:
        """From now on operations go to a tape."""
        if self.tape is not None:
            raise RuntimeError("Capture already in progress")
        self.tape = Tape(TIME.current, dry)

    def end(self) -> Tape:
        """The tape; RuntimeError on another stream than the one it began on."""
        tape, self.tape = self.tape, None
        if tape is None:
            raise RuntimeError("no capture is in progress")
        if tape.stream != TIME.current:
            raise RuntimeError("capture must end on the stream it began on")
        tape.end()
        return tape

    def abandon(self) -> None:
        """What was being captured has failed."""
        self.tape = None

    def forbid(self, what: str) -> None:
        """RuntimeError if a graph is being captured."""
        if self.tape is not None:
            raise RuntimeError(f"{what} is not supported during HPU Graph capturing")


CAPTURING = Capturing()
