"""How much memory processes hold, and whether it grows with the work they do."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from resource import getpagesize

Sample = tuple[float, dict[str, float]]
"""Thousands of jobs done, MB by name."""


def resident(pid: int) -> float:
    """MB that the process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * getpagesize() / 1e6


class Scales:
    """A thread that weighs everything once a second, from `with` to the end of it."""

    def __init__(self, done: Callable[[], int], weigh: Mapping[str, Callable[[], float]]) -> None:
        """`done`: jobs so far; `weigh`: MB of each, by name."""
        self.samples: list[Sample] = []
        self._done, self._weigh = done, weigh
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scales", daemon=True)

    def __enter__(self) -> Scales:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.samples.append((self._done() / 1000, {name: mb() for name, mb in self._weigh.items()}))

    def slopes(self, warm: int) -> dict[str, tuple[float, float]]:
        """(MB at the end, MB per 1,000 jobs by least squares) of each, without the first `warm` samples."""
        samples = self.samples[warm:]
        done = [thousands for thousands, _ in samples]
        found = {}
        for name in self._weigh:
            held = [mb[name] for _, mb in samples]
            found[name] = (held[-1], statistics.linear_regression(done, held).slope)
        return found
