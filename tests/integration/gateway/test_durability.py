"""DURABILITY=strict: accepted means on disk, and where there is no disk nothing is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config
from gateway.durability import Durability
from gateway.errors import BACKEND_DOWN
from gateway.service import connect
from sagrada.embedded import EmbeddedServer
from tests.integration.gateway.client import submit
from tests.integration.gateway.conftest import GatewayProcess, sees_worker
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until


@pytest.mark.parametrize("aof", [True, False])
def test_a_job_is_accepted_only_once_it_is_on_disk(tmp_path: Path, aof: bool) -> None:
    server = EmbeddedServer(tmp_path / "redis", aof=aof)
    server.start()
    try:
        with (
            GatewayProcess(server.url, tmp_path / "log", DURABILITY="strict") as gateway,
            FakeWorker(server.url) as worker,
        ):
            sees_worker(gateway)
            worker.hold()
            answer = submit(gateway.url)
            if aof:
                assert answer.status_code == 202
                return
            assert answer.status_code == 503 and "could not be made durable" in answer.json()["error"]
            until(lambda: not list(worker.redis.scan_iter("sagrada:{*:job")), 30, "no record left")
            until(lambda: worker.queue.size() == 0, 30, "no message left")  # it goes after the record
    finally:
        server.stop()


def test_a_replica_that_is_not_there_is_waited_for_in_vain(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "redis")
    server.start()
    env = {"DURABILITY": "strict", "DURABILITY_REPLICAS": "1"}
    try:
        with GatewayProcess(server.url, tmp_path / "log", **env) as gateway, FakeWorker(server.url):
            sees_worker(gateway)
            answer = submit(gateway.url)
            assert answer.status_code == 503 and "0 of 1 replicas" in answer.json()["error"]
    finally:
        server.stop()


def test_the_wait_is_not_repeated_on_a_connection_that_has_written_nothing(tmp_path: Path) -> None:
    """A Redis that takes the place of the one written to would say at once that all of nothing is safe."""
    first, second = EmbeddedServer(tmp_path / "first"), None
    first.start()
    config = Config(redis_url=first.url, durability="strict")
    try:
        with connect(config).client() as client:
            client.set("record", "of a job")
            first.kill()
            second = EmbeddedServer(tmp_path / "second", port=first.port)
            second.start()
            with pytest.raises(BACKEND_DOWN):
                Durability(config).ensure(client)
            client.connection_pool.disconnect()
    finally:
        for server in (first, second):
            if server:
                server.stop()
