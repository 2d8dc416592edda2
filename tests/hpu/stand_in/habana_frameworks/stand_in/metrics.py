"""What `torch.hpu.metrics` counts, globally and within contexts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MICROSECONDS = 1000
"""What every compilation takes here."""

Stats = list[tuple[str, Any]]


class Metric:
    """One name's events."""

    def __init__(self) -> None:
        self._running = True
        self.reset()

    def start(self) -> None:
        """Count again."""
        self._running = True

    def stop(self) -> None:
        """Count no more."""
        self._running = False

    def reset(self) -> None:
        """Begin at 0."""
        self.total = 0

    def record(self, name: str) -> None:
        """One event."""
        if self._running:
            self.total += 1
            self._detail(name)

    def _detail(self, name: str) -> None:
        """What a kind of event has besides its number."""

    def stats(self) -> Stats:
        """A list of pairs, not a dict."""
        return [("TotalNumber", self.total)]


class Compilations(Metric):
    """Recipes that were compiled."""

    def __init__(self) -> None:
        super().__init__()
        self._recipes: list[tuple[str, int]] = []

    def _detail(self, name: str) -> None:
        self._recipes.append((name, MICROSECONDS))

    def stats(self) -> Stats:
        """With the recipes themselves if PT_HPU_METRICS_GC_DETAILS asks for them; a reset leaves those."""
        time = self.total * MICROSECONDS
        pairs: Stats = [
            ("TotalNumber", self.total),
            ("TotalTime", time),
            ("AvgTime", time / max(1, self.total)),
        ]
        if os.environ.get("PT_HPU_METRICS_GC_DETAILS") == "1":
            pairs.append(("recipe", list(self._recipes)))
        return pairs


class Fallbacks(Metric):
    """Operations that ran on the CPU."""

    def reset(self) -> None:
        """Begin at 0."""
        super().reset()
        self._ops: Counter[str] = Counter()

    def _detail(self, name: str) -> None:
        self._ops[name] += 1

    def stats(self) -> Stats:
        """With how often each operation did."""
        return [("TotalNumber", self.total), ("FallbackOps", dict(self._ops))]


class Cache(Metric):
    """Whether a recipe was there already."""

    def reset(self) -> None:
        """Begin at 0."""
        super().reset()
        self._misses = 0

    def _detail(self, name: str) -> None:
        self._misses += name == "miss"

    def stats(self) -> Stats:
        """In all, and of recipes."""
        hits = self.total - self._misses
        return [
            ("TotalHit", hits),
            ("RecipeHit", hits),
            ("TotalMiss", self._misses),
            ("RecipeMiss", self._misses),
        ]


_KINDS: dict[str, type[Metric]] = {
    "graph_compilation": Compilations,
    "cpu_fallback": Fallbacks,
    "memory_defragmentation": Metric,
}
if os.environ.get("PT_HPU_ENABLE_CACHE_METRICS") == "1":
    _KINDS["recipe_cache"] = Cache

GLOBAL = {name: kind() for name, kind in _KINDS.items()}
_local: list[tuple[str, Metric]] = []


class MetricNotFound(Exception):
    """There is no metric of that name."""


def record(metric: str, name: str) -> None:
    """One event, for the global count and for every context that is open."""
    for kind, counter in (*GLOBAL.items(), *_local):
        if kind == metric:
            counter.record(name)


@contextmanager
def local(name: str) -> Iterator[Metric]:
    """A count of its own; MetricNotFound for an unknown name."""
    if name not in _KINDS:
        raise MetricNotFound(name)
    entry = (name, _KINDS[name]())
    _local.append(entry)
    try:
        yield entry[1]
    finally:
        _local.remove(entry)
