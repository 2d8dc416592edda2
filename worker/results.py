"""Celery's result backend on Redis, but for two things: a full Redis takes the results of what it had accepted, and
a server that cannot write, or is no master any more, is left.
"""

# mypy: allow-untyped-calls
# celery is typed in part only.

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend, SentinelBackend
from redis.exceptions import OutOfMemoryError

from wire.redis_url import leaving
from wire.scripts import EVEN_IF_FULL

BACKENDS = {
    "redis": "worker.results:Results",
    "rediss": "worker.results:Results",
    "sentinel": "worker.results:SentinelResults",
}
"""Scheme of a result_backend URL → the class that this module has for it."""

_SET = EVEN_IF_FULL + (
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', math.floor(ARGV[2] * 1000)) redis.call('PUBLISH', KEYS[1], ARGV[1])"
)


class Results(RedisBackend):
    """A result that is refused is lost to Celery: its producer would wait for ever."""

    def _set(self, key: str, value: Any, expires: float | None = None) -> None:
        """As Celery's."""
        try:
            super()._set(key, value, expires)
        except OutOfMemoryError:
            self.client.eval(_SET, 1, key, value, expires or self.expires)

    def _get_pool(self, **params: Any) -> Any:
        """As Celery's."""
        pool = super()._get_pool(**params)
        pool.connection_class = leaving(pool.connection_class)
        return pool


class SentinelResults(Results, SentinelBackend):
    """The same by way of the sentinels."""
