"""One thread for all of a process's timers: heartbeats, the sweep, the deadlines of waits."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from itertools import count

log = logging.getLogger("sagrada.gateway")


class Timer:
    """One pending call; `cancel` is safe at any time."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Let the call not happen, and let go of what it refers to."""
        self.call = None


class Clock:
    """Calls functions later, in its own thread; they must be short and must not block."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._changed = threading.Condition()

    def start(self) -> None:
        """Begin; once per process, after the fork."""
        threading.Thread(target=self._run, name="clock", daemon=True).start()

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call` in `seconds`."""
        timer = Timer(call)
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), timer))
            self._changed.notify()
        return timer

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` every `seconds`, for as long as the process lives."""

        def again() -> None:
            self.after(seconds, again)
            call()

        self.after(seconds, again)

    def _due(self) -> Timer:
        with self._changed:
            while True:
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(wait)

    def _run(self) -> None:
        while True:
            call = self._due().call
            try:
                if call is not None:
                    call()
            except Exception:  # one timer's fault must not stop all the others
                log.exception("a timer failed")
