"""A real Redis for whoever asks: one server per test run, one empty database per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from sagrada.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of this run's own, without an append-only file. Tests that stop Redis start another."""
    server = EmbeddedServer(tmp_path_factory.mktemp("redis"), aof=False, flags=("--loglevel", "warning"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """The URL of an empty Redis."""
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
