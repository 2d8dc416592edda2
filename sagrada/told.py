"""What a supervisor is told by signals: to stop, and how urgently."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Told:
    """What the signals have said so far."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.times = 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.times += 1
        self.stop.set()


@contextlib.contextmanager
def signals() -> Iterator[Told]:
    """What SIGINT, SIGTERM and SIGHUP say for so long."""
    told = Told()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, told.hear) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
