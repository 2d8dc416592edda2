"""Whether Redis would throw away keys when it is full: records are promises, logs are the truth."""

from __future__ import annotations

import logging

from redis import Redis

log = logging.getLogger(__name__)

SAFE = "noeviction"


class Eviction:
    """Says once of each policy that it will lose jobs."""

    def __init__(self, redis: Redis) -> None:
        self._redis, self._policy = redis, SAFE

    def look(self) -> None:
        """Warn if Redis has a limit and another policy than before that evicts; raises RedisError."""
        memory = self._redis.info("memory")
        policy = str(memory.get("maxmemory_policy", SAFE)) if memory.get("maxmemory") else SAFE
        before, self._policy = self._policy, policy
        if policy not in (SAFE, before):
            log.warning(
                "this Redis evicts keys when it is full (maxmemory-policy %s): jobs, tokens and leases may vanish. "
                "Set `maxmemory-policy %s`: then it refuses new jobs instead",
                policy,
                SAFE,
            )
