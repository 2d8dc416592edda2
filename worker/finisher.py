"""A thread that does one thing after another and keeps nobody from leaving."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger(__name__)


class Finisher:
    """Celery's tracer stores results here: while Redis is away it waits, and an executor would wait at exit, too."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Have it called, after those before it."""
        self._calls.put(call)

    def stop(self, seconds: float) -> None:
        """Do what was submitted, for so long at most."""
        self._calls.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while call := self._calls.get():
            try:
                call()
            except Exception:  # one task's trouble is not the next one's
                log.exception("a finished task could not be settled")
