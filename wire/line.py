"""The line in front of a full queue: whoever was refused has a moment from which on a place is kept for them.

A sorted set of tickets by their moments, Redis ms. Clients know nothing of tickets: they are made of what is asked
for, so that whoever asks for the same again is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wire.queue import Script, stock_lists

if TYPE_CHECKING:
    from redis import Redis

KEPT_MS, AHEAD_MS = 5_000, 1_000
"""How long after its moment a place is kept, and how long before it nobody else is let in on it."""
LONGEST_MS = 600_000
"""The most that anybody is told. A line that long takes no more tickets, so it is bounded by the queue's pace."""

_ENTER, _STAND = Script("queue_enter"), Script("queue_stand")


class Line:
    """One queue's. Every method raises RedisError."""

    def __init__(self, redis: Redis, queue: str) -> None:
        self._redis, self._queue = redis, queue

    def enter(self, ticket: str, places: int) -> tuple[bool, int]:
        """(Whether there is a place for this one, jobs that wait); `places`: jobs that may wait."""
        stock = stock_lists(self._queue)
        entered, waiting = _ENTER(self._redis, self._queue, ticket, places, KEPT_MS, AHEAD_MS, *stock)
        return bool(entered), int(waiting)

    def stand(self, ticket: str, pace: float) -> float:
        """Seconds until this one's moment, behind all who stand there; `pace`: places that get free per second."""
        each = min(1000 / pace, LONGEST_MS)
        return int(_STAND(self._redis, self._queue, ticket, each, LONGEST_MS, KEPT_MS)) / 1000
