"""The engine and transformers' static `generate` in turns, each figure beside the least time that it could take."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.hardware import spread
from bench.static_generate import StaticGenerate

HEAD = (
    "| | runs in | bound, ms | ours, ms | share of the bound | theirs, ms | share of the bound | theirs / ours |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Case:
    """One figure."""

    name: str
    shape: str
    """What the engine runs it in."""
    bound: float
    """Seconds that it takes at least, whoever computes it."""
    ours: list[float] = field(default_factory=list)
    """Seconds in each round."""
    theirs: list[float] = field(default_factory=list)
    """Likewise; empty if transformers could not."""
    compiling: float | None = None
    """Seconds of transformers' first call, which compiles and is not counted."""

    @property
    def line(self) -> str:
        """Its row of the table, median [quartiles]."""
        cells = [self.name, self.shape, f"{1e3 * self.bound:.2f}", *self._figures(self.ours)]
        if self.theirs:
            ratios = [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]
            cells += [*self._figures(self.theirs), spread(ratios)]
        else:
            cells += ["–"] * 3
        return f"| {' | '.join(cells)} |"

    def _figures(self, seconds: list[float]) -> tuple[str, str]:
        return spread([1e3 * each for each in seconds]), f"{self.bound / statistics.median(seconds):.0%}"


class Contest:
    """Rounds of both, each in random order, after a turn of each that is not counted."""

    def __init__(self, peer: StaticGenerate, rounds: int) -> None:
        self._peer: StaticGenerate | None = peer
        self._rounds = rounds
        self._chance = random.Random(0)

    def run(
        self,
        name: str,
        shape: str,
        bound: float,
        ours: Callable[[], float],
        theirs: Callable[[StaticGenerate], float],
        warm_up: Callable[[StaticGenerate], float],
    ) -> Case:
        """Measure and print one figure; all callables give seconds."""
        ours()
        peer, compiling = self._warm(warm_up)
        case = Case(name, shape, bound, compiling=compiling)
        turns: list[Callable[[], None]] = [lambda: case.ours.append(ours())]
        if peer is not None:
            turns.append(lambda: case.theirs.append(theirs(peer)))
        for _ in range(self._rounds):
            for turn in self._chance.sample(turns, len(turns)):
                turn()
        print(case.line, flush=True)
        return case

    def _warm(self, warm_up: Callable[[StaticGenerate], float]) -> tuple[StaticGenerate | None, float | None]:
        """Let transformers compile; it leaves for good if it cannot, for our figures stand without it."""
        if self._peer is None:
            return None, None
        try:
            return self._peer, warm_up(self._peer)
        except Exception as error:  # whatever a compiler raises
            print(f"transformers leaves: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            self._peer = None
            return None, None
