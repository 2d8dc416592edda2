"""The engine's heartbeat: one double in shared memory, written by the child, read by its parent.

It says until when silence is no cause for worry. One aligned word, so that a reader never sees half of a change.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import time

SIZE = mmap.PAGESIZE


class Beat:
    """The shared word, over a file descriptor that both processes hold."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, SIZE)
        self._word = memoryview(self._map).cast("d")

    @classmethod
    def create(cls) -> Beat:
        """A new beat in anonymous memory that expects nothing yet; the parent makes it and hands on `fd`."""
        fd = _anonymous_file()
        os.ftruncate(fd, SIZE)
        beat = cls(fd)
        beat.rest()
        return beat

    def mark(self, seconds: float) -> None:
        """Child: alive now, and heard of again within `seconds`, or hung."""
        self._word[0] = time.monotonic() + seconds

    def rest(self) -> None:
        """Expect nothing: while a model loads, which has no bound."""
        self._word[0] = math.inf

    def until(self) -> float:
        """When the child must have been heard of again: a time.monotonic, the same in every process; inf: never."""
        return self._word[0]

    def overdue(self) -> float:
        """Parent: seconds since the child should have been heard of; 0.0 while all is well."""
        return max(0.0, time.monotonic() - self._word[0])

    def close(self) -> None:
        """Unmap and close the descriptor; the other process keeps its own."""
        self._word.release()
        self._map.close()
        os.close(self.fd)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sagrada-beat")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
