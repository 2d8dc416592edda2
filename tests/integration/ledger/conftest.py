"""A client and a ledger on an empty Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from sagrada.embedded import EmbeddedServer
from tests.support.servers import serving
from wire.ledger import Ledger


@pytest.fixture(scope="package")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One that no gateway of other tests writes to: here it is told what is left in it."""
    with serving(tmp_path_factory.mktemp("ledger"), flags=("--loglevel", "warning")) as server:
        yield server


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis, result_ttl=600)
