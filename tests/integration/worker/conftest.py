"""An office over an empty Redis: one per test, or one with its worker for a whole file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sagrada.embedded import EmbeddedServer
from tests.integration.worker.workers import Office


@pytest.fixture
def office(redis_url: str, tmp_path: Path) -> Iterator[Office]:
    made = Office(redis_url, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def busy_office(redis_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """With one worker that all tests of the file share."""
    made = Office(redis_server.url, tmp_path_factory.mktemp("office"))
    made.redis.flushall()
    made.start()
    yield made
    made.close()
