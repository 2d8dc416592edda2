"""A step on its way: launched, and not yet read."""

from __future__ import annotations

from dataclasses import dataclass

from models.step import Outcome, Pending
from worker import link as frames
from worker.scheduler import Batch


@dataclass(frozen=True, slots=True)
class Raised:
    """A step that could not even be launched."""

    error: Exception

    def read(self) -> Outcome:
        """Raise what the launch raised."""
        raise self.error


@dataclass(frozen=True, slots=True)
class Flight:
    """A launched step."""

    batch: Batch
    pending: Pending
    launched: float
    """Monotonic seconds."""
    choosing: float
    """Seconds that its sequences were being chosen."""

    def work(self, began: float, read: float, settled: float, raised: bool = False) -> frames.Work:
        """How it went: it had the device from `began` on, monotonic seconds as the others."""
        return frames.Work(
            phase=self.batch.step.bucket.phase,
            sequences=len(self.batch.sequences),
            used=self.batch.used,
            padding=self.batch.padding,
            joining=self.batch.joining,
            choosing=self.choosing,
            device=read - max(began, self.launched),
            settling=settled - read,
            whole=settled - self.launched,
            raised=raised,
        )
