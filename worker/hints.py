"""The boot's ear: job ids that somebody wants it to look at again. Prompt, not sure: the lease tick is the belt."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

from wire.keys import boot_channel
from wire.redis_url import ask_for_master

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between two looks at the boot id, and between two attempts to connect."""
WATCH = 2.0
"""Seconds between two questions to the sentinels, if there are any, who the master is: here nobody waits for them."""


class Hints:
    """A thread that listens on the present boot's channel and calls `on_hint` with each job id."""

    def __init__(
        self,
        redis: Redis,
        boot: Callable[[], str],
        on_hint: Callable[[str], None],
        on_master: Callable[[], object],
    ) -> None:
        """`on_master`: the sentinels name another master than before."""
        self._redis, self._boot, self._on_hint, self._on_master = redis, boot, on_hint, on_master
        self._master: tuple[str, int] | None = None
        self._watch_at = 0.0
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
                if time.monotonic() >= self._watch_at and self._another_master():
                    return

    def _another_master(self) -> bool:
        self._watch_at = time.monotonic() + WATCH
        before, master = self._master, ask_for_master(self._redis)
        self._master = master or before
        if before is None or self._master == before:
            return False
        log.warning("the sentinels name another master")
        self._on_master()
        return True
