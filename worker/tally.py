"""The engine's count of the shapes it ran, kept in a file for the plan of its next start."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from models.histogram import Histogram, HistogramBroken, counted

SAVE_EVERY = 300.0
"""Seconds between two writes, at least; they are made when there is nothing to run."""


class Tally:
    """A histogram that goes on from what the file holds, and goes back to it; without a path it is only counted."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self.histogram = self._read(path)
        self._saved_at = time.monotonic()

    @staticmethod
    def _read(path: str) -> Histogram:
        """What earlier runs counted: the loader has refused a file that is none."""
        try:
            return counted(path)
        except HistogramBroken:
            return Histogram()

    def save_sometimes(self) -> None:
        """Write the file if it is time to."""
        if time.monotonic() - self._saved_at >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the file. What cannot be written is said once more at the next try: it costs padding, not tokens."""
        self._saved_at = time.monotonic()
        if self._path is None or not self.histogram:
            return
        try:
            self.histogram.save(self._path)
        except OSError as error:
            print(f"engine: the histogram cannot be written: {error}", file=sys.stderr, flush=True)
