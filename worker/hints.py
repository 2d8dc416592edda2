"""The boot's ear: job ids that somebody wants it to look at again. Prompt, not sure: the lease tick is the belt."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

from wire.keys import boot_channel

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between two looks at the boot id, and between two attempts to connect."""


class Hints:
    """A thread that listens on the present boot's channel and calls `on_hint` with each job id."""

    def __init__(self, redis: Redis, boot: Callable[[], str], on_hint: Callable[[str], None]) -> None:
        self._redis, self._boot, self._on_hint = redis, boot, on_hint
        self._stop = threading.Event()
        self._round = 0
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)

    def start(self) -> None:
        """Listen until stop()."""
        self._thread.start()

    def listen_anew(self) -> None:
        """Soon, over a new connection: a server whose machine is gone never closes the old one."""
        self._round += 1

    def stop(self) -> None:
        """End the thread; waits for it."""
        self._stop.set()
        self._thread.join(2 * PAUSE)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen(self._boot())
            except RedisError:
                self._stop.wait(PAUSE)  # the lease thread says that Redis is away
            except Exception:  # a dead ear would make every cancellation slow
                log.exception("a hint could not be handled")

    def _listen(self, boot: str) -> None:
        now = self._round
        with PubSub(self._redis.connection_pool, ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(boot_channel(boot))
            while not self._stop.is_set() and (self._boot(), self._round) == (boot, now):
                message = pubsub.get_message(timeout=PAUSE)
                if message:
                    self._on_hint(message["data"].decode())
