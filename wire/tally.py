"""What one process counts under one set of labels since it began. Cheap enough for every token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from wire.metrics import field


class Histogram:
    """Counts by bucket, and the sum; for one thread, or under a lock of the caller's."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """So much, so many times; a bucket's bound belongs to it."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Tally:
    """Counters and histograms. `values` may be asked from any thread."""

    def __init__(self, *scope: str) -> None:
        """`scope`: nothing, or the model, or the model and the worker."""
        self.scope = scope
        self._counts: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}

    def count(self, name: str, *labels: str, more: float = 1) -> None:
        """So many more."""
        key = field(name, *labels)
        self._counts[key] = self._counts.get(key, 0) + more

    def update(self, counts: Mapping[str, float]) -> None:
        """What others count: by field, as it stands."""
        self._counts.update(counts)

    def histogram(self, name: str, bounds: Sequence[float], *labels: str) -> Histogram:
        """That histogram: kept by who observes often."""
        return self._histograms.setdefault(field(name, *labels), Histogram(bounds))

    def values(self) -> dict[str, float]:
        """All fields that are not 0; buckets hold what fell into them, not below."""
        found = {key: value for key, value in self._counts.copy().items() if value}
        for key, each in self._histograms.copy().items():
            for bound, n in zip((*each.bounds, float("inf")), each.counts[:], strict=True):
                if n:
                    found[f"{key}|le={bound!r}"] = n
            if each.sum:
                found[f"{key}|sum"] = each.sum
        return found
