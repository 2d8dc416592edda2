"""How many jobs may wait, and what those hear who come when it is full: when a place will be free for *them*."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import redis

from wire.errors import QueueFull
from wire.open import Gateways
from wire.queue import TaskQueue

UNKNOWN, LONGEST = 5, 600
"""Seconds to wait where nothing was taken for a minute, and the most that anybody is told."""


class WaitingRoom:
    """The bound on each queue. Everyone who is refused gets a moment of their own to come back.

    If all were told when the next place is free, all but one would be refused again. So each moment lies one job
    after the one before, as fast as the queue is worked off, shared among the gateway processes that live.
    """

    def __init__(self, client: redis.Redis, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`most`: jobs that may wait in a queue."""
        self._redis, self._gateways, self._most, self._clock = client, Gateways(client), most, clock
        self._moments: dict[str, float] = {}
        self._lock = threading.Lock()

    def check(self, name: str) -> None:
        """Raise QueueFull, with the seconds after which to come again, unless there is room."""
        queue = TaskQueue(self._redis, name)
        if (waiting := queue.size()) < self._most:
            self._moments.pop(name, None)
            return
        seconds = self._moment(name, queue.pace(), max(1, len(self._gateways.live())))
        raise QueueFull(
            f"the queue {name} is full: {waiting} jobs wait already; try again in {seconds} s", seconds
        )

    def _moment(self, name: str, pace: float | None, gateways: int) -> int:
        if not pace:
            return UNKNOWN
        with self._lock:
            now = self._clock()
            at = min(max(self._moments.get(name, now), now) + gateways / pace, now + LONGEST)
            self._moments[name] = at
        return max(1, math.ceil(at - now))
