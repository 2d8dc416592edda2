"""A Redis that has reached `maxmemory` and evicts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis


@contextmanager
def full(redis: Redis, ballast: int = 1 << 20) -> Iterator[None]:
    """A ballast of so many bytes fills it to the brim while this lasts."""
    client: Any = redis
    client.setrange("ballast", ballast, "x")
    client.config_set("maxmemory", client.info("memory")["used_memory"] - ballast // 2)
    try:
        yield
    finally:
        client.delete("ballast")
        client.config_set("maxmemory", 0)
