"""Which shapes a server's launches had, counted by itself: what the next start's plan is made for."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.plan import PHASES, Phase

Shape = tuple[Phase, int, int]
"""(phase, rows of a decode or tokens of another phase, context blocks), exactly as they were before padding."""

VERSION = 1
"""Of the file's format."""

MOST_SHAPES = 8192
"""Distinct shapes that are kept: a few hundred kilobytes, more than a plan can make use of."""

MOST_LAUNCHES = 10_000_000
"""Launches that are remembered from file to file; beyond, all counts are halved, so that old traffic fades."""


class HistogramBroken(ValueError):
    """The file is no histogram that this version reads; the message says why."""


class Histogram(Mapping[Shape, int]):
    """How often each shape was launched. Not locked: one thread counts."""

    def __init__(self, counts: Mapping[Shape, int] | None = None) -> None:
        self._counts = Counter(counts or {})
        self._bound()

    def count(self, phase: Phase, x: int, blocks: int) -> None:
        """One more launch of the shape."""
        self._counts[phase, x, blocks] += 1
        if len(self._counts) > MOST_SHAPES:
            self._bound()

    def merge(self, other: Mapping[Shape, int]) -> None:
        """Add what another server counted."""
        self._counts.update(other)
        self._bound()

    def save(self, path: Path) -> None:
        """Replace the file, whole or not at all; OSError if that cannot be."""
        shapes = sorted([*shape, count] for shape, count in self._counts.items())
        handle, written = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump({"version": VERSION, "shapes": shapes}, file, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            Path(written).replace(path)
        except BaseException:
            Path(written).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> Histogram:
        """What `save` wrote, aged if it is long; HistogramBroken, OSError."""
        try:
            document = json.loads(path.read_bytes())
        except ValueError as error:
            raise HistogramBroken(
                f"the histogram {path} is not JSON ({error}): remove it to start anew"
            ) from error
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise HistogramBroken(
                f"the histogram {path} is not of version {VERSION}: remove it, or use the Sagrada that wrote it"
            )
        histogram = cls(dict(_entries(document.get("shapes"), path)))
        while sum(histogram.values()) > MOST_LAUNCHES:
            histogram._halve()
        return histogram

    def __getitem__(self, shape: Shape) -> int:
        return self._counts.get(shape, 0)

    def __iter__(self) -> Iterator[Shape]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def _bound(self) -> None:
        while len(self._counts) > MOST_SHAPES:
            self._halve()

    def _halve(self) -> None:
        """Forget half; shapes seen once go."""
        self._counts = Counter({shape: count // 2 for shape, count in self._counts.items() if count > 1})


def counted(path: str) -> Histogram:
    """What earlier runs counted into the file; nothing if there is no such file yet, or no path. HistogramBroken."""
    try:
        return Histogram.load(Path(path)) if path else Histogram()
    except FileNotFoundError:
        return Histogram()


def _entries(shapes: Any, path: Path) -> Iterator[tuple[Shape, int]]:
    """The file's entries, each looked at."""
    if not isinstance(shapes, list):
        raise HistogramBroken(f"the histogram {path} has no list of shapes: remove it to start anew")
    for entry in shapes:
        match entry:
            case [phase, int(x), int(blocks), int(count)] if phase in PHASES and min(x, blocks, count) >= 1:
                yield (phase, x, blocks), count
            case _:
                raise HistogramBroken(
                    f"the histogram {path} has an entry {entry!r}, where (phase, size, blocks, count) with "
                    "positive integers was expected: remove it to start anew"
                )
