"""For whoever asks: a real Redis, one server per test run, one empty database per test; tiny models in folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from sagrada.embedded import EmbeddedServer
from tests.support.servers import serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test has an id of its own: of those that share one, xdist runs one and says nothing of the others."""
    twice = [name for name, times in Counter(item.nodeid for item in items).items() if times > 1]
    if twice:
        raise pytest.UsageError(f"several tests have the same id: {', '.join(twice)}")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of this run's own, without an append-only file. Tests that stop Redis start another."""
    with serving(tmp_path_factory.mktemp("redis"), flags=("--loglevel", "warning")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """The URL of an empty Redis."""
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny model of that variant, made once."""
    from tests.support import tiny  # it imports torch

    made: dict[str, Path] = {}

    def make(variant: str) -> Path:
        if variant not in made:
            made[variant] = tiny.make(tmp_path_factory.mktemp(variant), variant)
        return made[variant]

    return make
