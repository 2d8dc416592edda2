"""A real gateway under gunicorn on a real Redis, and a fake worker behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sagrada.embedded import EmbeddedServer, free_port
from tests.integration.gateway.client import http
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until


class GatewayProcess:
    """`python -m gateway`, started and stopped."""

    def __init__(self, redis_url: str, log: Path, **env: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        settings = {"REDIS_URL": redis_url, "PORT": str(self.port), "HOST": "127.0.0.1", **env}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway"], env={**os.environ, **settings}, stdout=out, stderr=out
            )

    def live(self) -> GatewayProcess:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return http.get(self.url + "/livez", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        until(answers, 60, "the gateway")
        return self

    def terminate(self, timeout: float = 60) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def __enter__(self) -> GatewayProcess:
        return self.live()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


@pytest.fixture(scope="session")
def gateway(
    redis_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """One for all tests that do not harm it."""
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with GatewayProcess(redis_server.url, log, MAX_BODY_BYTES="200000") as process:
        yield process


@pytest.fixture(scope="session")
def narrow(
    redis_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """One with little room: 4 threads, 200 streams, 50 waiting jobs."""
    log = tmp_path_factory.mktemp("narrow") / "gateway.log"
    room = {"GATEWAY_THREADS": "4", "MAX_STREAMS": "200", "MAX_QUEUED": "50"}
    with GatewayProcess(redis_server.url, log, **room) as process:
        yield process


@pytest.fixture(scope="session")
def strict(
    redis_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """One with TGI's habits, and with bounds of its own."""
    log = tmp_path_factory.mktemp("strict") / "gateway.log"
    bounds = {
        "MAX_BEST_OF": "1",
        "MAX_STOP_SEQUENCES": "1",
        "MAX_TOP_N_TOKENS": "1",
        "MAX_CLIENT_BATCH_SIZE": "5",
    }
    with GatewayProcess(redis_server.url, log, TGI_STRICT="true", **bounds) as process:
        yield process


@pytest.fixture
def worker(redis_url: str) -> Iterator[FakeWorker]:
    """Serves the model `fake` on an empty Redis."""
    with FakeWorker(redis_url) as fake:
        yield fake


def sees_worker(gateway: GatewayProcess, worker: FakeWorker | None = None) -> str:
    """The gateway's URL, once it has heard of a worker, and that this one's limits hold.

    What it knows may be a second old: of the last test's worker, which is as good if it was like this one.
    """

    def sees() -> bool:
        ready = http.get(gateway.url + "/readyz").status_code == 200
        told = http.get(gateway.url + "/info").json() if ready and worker else {}
        return ready and (worker is None or told.get("max_total_tokens") == worker.most)

    until(sees, 30, "a serving worker")
    return gateway.url


@pytest.fixture
def url(gateway: GatewayProcess, worker: FakeWorker) -> str:
    return sees_worker(gateway, worker)


@pytest.fixture
def brief(gateway: GatewayProcess, redis_url: str) -> Iterator[FakeWorker]:
    """A worker whose every answer is short, whatever it is asked for."""
    with FakeWorker(redis_url, step=0.0002, most=80) as fake:
        sees_worker(gateway, fake)
        yield fake


@pytest.fixture
def narrow_url(narrow: GatewayProcess, worker: FakeWorker) -> str:
    return sees_worker(narrow, worker)


@pytest.fixture
def strict_url(strict: GatewayProcess, worker: FakeWorker) -> str:
    return sees_worker(strict, worker)
