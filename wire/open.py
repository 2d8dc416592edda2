"""The jobs that have not ended, as the reconciler goes through them: whom to look at, and whom nobody holds.

The ledger's scripts keep the index: a job is in it from its record's first moment to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wire.keys import GATEWAYS, OPEN, boot_channel
from wire.queue import Script, TaskQueue, milliseconds
from wire.replies import Stopped

if TYPE_CHECKING:
    from redis import Redis

_DUE, _UNHELD = Script("open_due"), Script("open_unheld")
_LOOK_AGAIN, _RENEW = Script("open_look_again"), Script("gateway_renew")


class Suspect(NamedTuple):
    """A job that may be nowhere."""

    job_id: str
    queue: str
    boot: str
    """Who runs it, as its record says; empty: nobody."""


class OpenJobs:
    """The index. Every method raises RedisError."""

    def __init__(self, redis: Redis) -> None:
        """`redis` must return bytes."""
        self._redis: Any = redis

    def due(self, most: int, pause: float) -> tuple[int, list[str]]:
        """(Redis ms, ids): jobs to look at now, the longest due first; each is due again in `pause` seconds."""
        now, ids = _DUE(self._redis, most, int(pause * 1000))
        return int(now), [job_id.decode() for job_id in ids]

    def ids(self) -> list[str]:
        """All of them."""
        return [job_id.decode() for job_id in self._redis.zrange(OPEN, 0, -1)]

    def look_again(self, job_id: str, at: int) -> None:
        """At `at`, Redis ms; nothing if the job has ended."""
        _LOOK_AGAIN(self._redis, job_id, at)

    def forget(self, job_ids: Iterable[str]) -> None:
        """Jobs that have no record, or one that says that they have ended."""
        if ids := list(job_ids):
            self._redis.zrem(OPEN, *ids)

    def unheld(self, suspects: Sequence[Suspect]) -> list[bool]:
        """Whether each is in no queue, in no boot's hands, and its owner does not live."""
        return [
            bool(answer) for answer in _UNHELD(self._redis, *(part for each in suspects for part in each))
        ]

    def __len__(self) -> int:
        size: int = self._redis.zcard(OPEN)
        return size


def spread(redis: Redis, job_id: str, stopped: Stopped) -> None:
    """Let who runs a job know that it was ended, or take it out of its queue; raises RedisError.

    One that was begun and queued again keeps its message: a Celery producer hears REVOKED from whoever takes it.
    """
    if stopped.boot:
        redis.publish(boot_channel(stopped.boot), job_id)
    elif not stopped.record.started:
        TaskQueue(redis, stopped.record.queue).remove(job_id)


class Gateways:
    """The leases of gateway processes: a job that is bound to a connection dies with the process that held it."""

    def __init__(self, redis: Redis) -> None:
        """`redis` must return bytes."""
        self._redis: Any = redis

    def renew(self, gateway: str, seconds: float) -> None:
        """This process lives, for so long at least."""
        _RENEW(self._redis, gateway, int(seconds * 1000))

    def leave(self, gateway: str) -> None:
        """This process ends."""
        self._redis.zrem(GATEWAYS, gateway)

    def live(self) -> set[str]:
        """Those whose lease has not ended; the others are forgotten."""
        self._redis.zremrangebyscore(GATEWAYS, "-inf", milliseconds(self._redis.time()))
        return {name.decode() for name in self._redis.zrange(GATEWAYS, 0, -1)}
