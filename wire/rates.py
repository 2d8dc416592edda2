"""What an API key has used of its requests and tokens per minute: in Redis, so that all gateways count together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wire.keys import rate_key
from wire.scripts import EVEN_IF_FULL, load

if TYPE_CHECKING:
    from redis import Redis


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands with one of its limits."""

    limit: int
    """Per minute."""
    left: int
    reset: float
    """Seconds until all of it is there again."""
    wait: float
    """Seconds until what was asked for would fit; 0 if it did."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request."""

    granted: bool
    """False: nothing was taken."""
    requests: Standing | None
    """None: without a limit, as the next."""
    tokens: Standing | None

    @property
    def wait(self) -> float:
        """Seconds until it would fit into both."""
        return max((each.wait for each in (self.requests, self.tokens) if each), default=0.0)


class Rates:
    """A bucket per key and limit, which holds a minute's worth and fills evenly. Raises RedisError."""

    def __init__(self, redis: Redis) -> None:
        client: Any = redis
        self._take = client.register_script(EVEN_IF_FULL + load("rates_take"))

    def take(self, key_id: str, requests_per_minute: int, tokens_per_minute: int, tokens: int) -> Taken:
        """Take one request of so many tokens, both or neither; a limit of 0 is none."""
        limits = requests_per_minute, tokens_per_minute
        granted, *told = self._take(keys=[rate_key(key_id)], args=[*limits, tokens])
        requests, used = _standings(limits, told)
        return Taken(bool(granted), requests, used)


def _standings(limits: tuple[int, int], told: list[int]) -> Iterator[Standing | None]:
    for n, limit in enumerate(limits):
        left, reset, wait = told[3 * n : 3 * n + 3]
        yield Standing(limit, left, reset / 1000, wait / 1000) if limit else None
