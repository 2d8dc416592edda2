"""When this process may declare others dead: never while it could be the one, or Redis, that was away."""

from __future__ import annotations

import time
from collections.abc import Callable

from redis import Redis

from wire.queue import Boots


class Reaper:
    """Puts back what dead boots held. Declares none dead for two leases after anything that hid their renewals."""

    def __init__(self, redis: Redis, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis, self._boots, self._lease, self._clock = redis, Boots(redis), lease, clock
        self._server: tuple[str, str] | None = None
        """Whose answers were last seen."""
        self._disturbed = False
        self.replaced = False
        """Whether the last look found another Redis than the one before: it may have lost writes."""
        self._last: int | None = None
        self._quiet_until = 0.0

    def disturbed(self) -> None:
        """The connection was lost: others may have lost theirs."""
        self._disturbed = True

    def watch(self, now: int) -> bool:
        """Look at Redis itself, at `now` (Redis ms); True if it restarted or changed its role, or may have."""
        server = self._identity()
        changed = self._disturbed or server != self._server
        away = self._last is not None and now - self._last > self._lease * 1000
        if changed or away:
            self._quiet_until = self._clock() + 2 * self._lease
        self.replaced = self._server not in (None, server)
        self._server, self._disturbed, self._last = server, False, now
        return changed

    def another(self) -> bool:
        """Whether another Redis answers than at the last look."""
        return self._server not in (None, self._identity())

    def _identity(self) -> tuple[str, str]:
        run_id = self._redis.info("server")["run_id"]
        return str(run_id), str(self._redis.info("replication")["role"])

    @property
    def quiet(self) -> bool:
        """Whether nobody may be declared dead now."""
        return self._clock() < self._quiet_until

    def reap(self) -> tuple[list[str], int]:
        """(boots declared dead, messages put back); what boots that died earlier left is put back even when quiet."""
        declared, restored, _ = self._boots.reap(declare=not self.quiet)
        return declared, restored
