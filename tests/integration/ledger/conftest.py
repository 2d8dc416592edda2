"""A client and a ledger on an empty Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from wire.ledger import Ledger


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis, result_ttl=600)
