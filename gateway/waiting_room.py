"""How many jobs may wait, and what those hear who come when it is full: when a place will be free for *them*."""

from __future__ import annotations

import math

import redis

from wire.errors import QueueFull
from wire.line import Line
from wire.queue import TaskQueue

UNKNOWN = 5
"""Seconds to wait where nothing was taken for a minute."""


class WaitingRoom:
    """The bound on each queue. Everyone who is refused gets a moment of their own to come back.

    If all were told when the next place is free, all but one would be refused again; and if those who come for the
    first time could take what has become free, hardly anybody who comes back would find a place. So each moment lies
    one job after the one before, as fast as the queue is worked off, and its place is kept. The line is Redis's: all
    gateways have the same.
    """

    def __init__(self, client: redis.Redis, most: int) -> None:
        """`most`: jobs that may wait in a queue."""
        self._redis, self._most = client, most

    def check(self, name: str, ticket: str) -> None:
        """Raise QueueFull, with the seconds after which to come again, unless there is room for this one.

        `ticket`: the same for the same request when it comes again.
        """
        line = Line(self._redis, name)
        entered, waiting = line.enter(ticket, self._most)
        if entered:
            return
        pace = TaskQueue(self._redis, name).pace()
        seconds = max(1, math.ceil(line.stand(ticket, pace))) if pace else UNKNOWN
        raise QueueFull(
            f"Model is overloaded: the queue {name} is full, {waiting} jobs wait already; try again in {seconds} s",
            seconds,
        )
