"""Ledger commands that can wait a moment: kept, in order, until Redis has answered them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from wire.resp import Command, Reply
from worker.assignment import Assignment
from worker.clerk import Clerk


class Errands:
    """All of them may be repeated: a reply that was lost is asked for again."""

    def __init__(self, clerk: Clerk) -> None:
        self._clerk = clerk
        self._waiting: deque[tuple[Command, Callable[[Reply], None]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def tell(self, command: Command) -> None:
        """One whose reply says nothing new."""
        self._waiting.append((command, _ignore))

    def ask(
        self, command: Command, then: Callable[[Assignment, Reply], None], assignment: Assignment
    ) -> None:
        """One whose reply concerns an assignment."""
        self._waiting.append((command, partial(then, assignment)))

    def run(self) -> None:
        """Send what waits, act on the replies; Away."""
        now = list(self._waiting)
        replies = self._clerk.tell([command for command, _ in now])
        for (_, then), reply in zip(now, replies, strict=True):
            self._waiting.popleft()
            then(reply)


def _ignore(_: Reply) -> None:
    """Told, not asked."""
