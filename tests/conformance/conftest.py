"""A running fleet with the built-in demo model: Redis, a worker, a gateway, and a gateway that asks for keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from redis import Redis

from tests.integration.gateway.conftest import GatewayProcess
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.servers import serving
from wire.apikeys import ApiKeys
from wire.open import OpenJobs

SETTINGS = {"SERVED_MODEL_NAME": "demo", "SLOTS": "8", "MAX_TOTAL_TOKENS": "1024", "MAX_INPUT_TOKENS": "768"}

# The clients look for nothing outside this machine.
os.environ.update({"LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"})


@dataclass(frozen=True, slots=True)
class Served:
    """Where the fleet is, and what only its owner sees."""

    url: str
    closed: str
    """The gateway that asks for keys."""
    redis: Redis

    def key(self, name: str, requests_per_minute: int = 0) -> str:
        """A new key for it."""
        return ApiKeys(self.redis).add(name, requests_per_minute=requests_per_minute)[1]

    def idle(self) -> bool:
        """Whether no job is open and every slot is free."""
        workers = httpx.get(self.url + "/info").json()["workers"]
        return not OpenJobs(self.redis).ids() and all(worker["running"] == 0 for worker in workers)

    def settle(self) -> None:
        """Wait until it is idle: whatever a test left behind is told."""
        until(self.idle, 60, "the end of every job")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One fleet for all tests of a process."""
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "logs").mkdir()
    with (
        serving(folder / "redis") as server,
        Fleet(server.url, folder / "logs", model="demo", env=SETTINGS) as fleet,
        GatewayProcess(server.url, folder / "logs" / "closed.log", AUTH="keys") as closed,
    ):
        fleet.ready()
        yield Served(fleet.url, closed.url, fleet.redis)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test every job has ended."""
    yield
    if "served" in request.fixturenames:
        request.getfixturevalue("served").settle()
