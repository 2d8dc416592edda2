"""Calls from other threads into one thread that sleeps in poll()."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator


class Inbox:
    """`put` from any thread and from signal handlers; `take` from the one that sleeps on `fileno`."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def put(self, call: Callable[[], None]) -> None:
        """Have it called soon, in the other thread, in order."""
        self._calls.append(call)
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well as a fuller one
            os.write(self._write, b"\0")

    def take(self) -> Iterator[Callable[[], None]]:
        """What has come by now."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 1 << 16)
        while self._calls:
            yield self._calls.popleft()

    def fileno(self) -> int:
        """Readable when there may be something to take."""
        return self._read

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._read)
        os.close(self._write)
