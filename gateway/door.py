"""gunicorn's threaded worker, but that a process which is told to go closes its door at once.

Stock gthread lets the kernel go on taking connections while it finishes what it has: nobody reads from those, and they
are cut when the process ends. A balancer that is refused moves on. tests/unit/gateway/test_contract.py holds what this
relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from gateway.exchange import nobody


class DoorWorker(ThreadWorker):
    """`on_leaving` is called, in the main thread, when the door is closed; maybe more than once."""

    on_leaving: Callable[[], None] = staticmethod(nobody)
    sockets: list[Any]

    def set_accept_enabled(self, enabled: bool) -> None:
        """As gthread's, which calls it with False when it has been told to go."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self._close_door()
            self.on_leaving()

    def _close_door(self) -> None:
        """Take in who has knocked: they would be cut. Then nobody can connect any more."""
        for listener in self.sockets:
            before = -1
            while before != self.nr_conns:
                before = self.nr_conns
                self.accept(listener)
            listener.close()
        self.sockets = []
