"""Redis away, a full queue, SIGTERM: what clients see then."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from sagrada.embedded import EmbeddedServer
from tests.integration.gateway.client import http, submit
from tests.integration.gateway.conftest import GatewayProcess, sees_worker
from tests.integration.gateway.fake import FakeWorker
from tests.support.full import full
from tests.support.processes import until
from tests.support.sse import frames
from wire.keys import OPEN
from wire.open import OpenJobs


@dataclass
class Own:
    """A Redis that may be harmed, and its gateway."""

    redis: EmbeddedServer
    gateway: GatewayProcess


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    folder = tmp_path_factory.mktemp("outages")
    server = EmbeddedServer(folder / "redis", aof=True)
    server.start()
    with GatewayProcess(server.url, folder / "gateway.log") as gateway:
        yield Own(server, gateway)
    server.stop()


def is_unavailable(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and len(answer.json()["error"]) > 10


def test_redis_goes_away_and_comes_back(own: Own) -> None:
    url = own.gateway.url
    with FakeWorker(own.redis.url) as worker:
        sees_worker(own.gateway)
        worker.hold()
        job_id = submit(url, 5).json()["id"]
    with http.stream("GET", f"{url}/jobs/{job_id}/stream") as response:
        own.redis.stop()
        until(lambda: http.get(url + "/readyz").status_code == 503, 30, "the news")
        for answer in (
            submit(url),
            http.post(url + "/generate", json={"inputs": "the cat"}),
            http.get(f"{url}/jobs/{job_id}"),
            http.get(f"{url}/jobs/{job_id}/stream"),
            http.post(f"{url}/jobs/{job_id}/cancel"),
            http.get(url + "/info"),
            http.get(url + "/health"),
        ):
            assert is_unavailable(answer)
        assert http.get(url + "/livez").status_code == 200
        assert "sagrada_redis_up 0" in http.get(url + "/metrics").text
        own.redis.start()
        until(lambda: http.get(f"{url}/jobs/{job_id}").status_code == 200, 30, "Redis")
        with FakeWorker(own.redis.url):
            until(lambda: submit(url, 2).status_code == 202, 30, "submission")
            assert [event["seq"] for _, event in frames(response)] == list(range(6)), (
                "the open stream goes on"
            )


def test_a_redis_that_hangs_is_answered_for(own: Own) -> None:
    url, child = own.gateway.url, own.redis.child
    assert child is not None
    with FakeWorker(own.redis.url):
        sees_worker(own.gateway)
        job_id = submit(url, 2).json()["id"]
        child.send_signal(signal.SIGSTOP)
        try:
            assert is_unavailable(submit(url)) and is_unavailable(http.get(f"{url}/jobs/{job_id}"))
        finally:
            child.send_signal(signal.SIGCONT)
        until(lambda: submit(url, 2).status_code == 202, 30, "submission")


def test_a_full_redis_is_told_to_those_who_come_and_serves_those_who_are_there(own: Own) -> None:
    url = own.gateway.url
    with FakeWorker(own.redis.url) as worker:
        sees_worker(own.gateway)
        worker.hold()
        job_id, jobs = submit(url, 5).json()["id"], OpenJobs(worker.redis)
        kept = worker.queue.size(), len(jobs)
        with full(worker.redis):
            asked = {"inputs": "the cat"}
            for answer in (submit(url), http.post(url + "/generate", json=asked)):
                assert is_unavailable(answer) and "maxmemory" in answer.json()["error"]
                assert int(answer.headers["retry-after"]) > 0
            assert (worker.queue.size(), len(jobs)) == kept, "nothing was half accepted"
            assert http.get(f"{url}/jobs/{job_id}").json()["queue_position"]
            assert http.post(f"{url}/jobs/{job_id}/cancel").json()["status"] == "cancelled"
            assert http.delete(f"{url}/jobs/{job_id}").status_code == 204
            assert http.get(url + "/readyz").status_code == 200
        assert submit(url, 2).status_code == 202


@pytest.mark.parametrize(
    ("harm", "mend"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
    ],
    ids=["demoted", "without replicas"],
)
def test_a_redis_that_takes_no_writes(own: Own, harm: tuple[str, ...], mend: tuple[str, ...]) -> None:
    url = own.gateway.url
    with Redis.from_url(own.redis.url) as admin:
        worker = FakeWorker(own.redis.url)
        worker.publish()
        sees_worker(own.gateway)
        admin.execute_command(*harm)
        try:
            assert is_unavailable(submit(url)) and is_unavailable(submit(url))
        finally:
            admin.execute_command(*mend)
        until(lambda: submit(url).status_code == 202, 30, "submission")
        worker.registry.remove(worker.boot)


def test_a_job_that_cannot_be_queued_is_kept_for_a_reconciler(own: Own) -> None:
    """The record is the promise. Asked for again under the same key it is the same job, and is queued then."""
    url, key = own.gateway.url, {"Idempotency-Key": "k"}
    with FakeWorker(own.redis.url) as worker:
        sees_worker(own.gateway)
        worker.hold()
        messages = f"sagrada:q:{worker.queue.name}:msgs"
        worker.redis.set(messages, "not a hash")
        kept = submit(url, headers=key)
        assert kept.status_code == 202 and kept.json()["status"] == "queued"
        assert worker.redis.zscore(OPEN, kept.json()["id"])
        worker.redis.delete(messages)
        assert submit(url, headers=key).json()["id"] == kept.json()["id"]
        assert worker.queue.position(kept.json()["id"])


def test_a_full_waiting_room(narrow_url: str, worker: FakeWorker) -> None:
    worker.hold()
    assert [submit(narrow_url).status_code for _ in range(51)] == [202] * 50 + [429]
    refused = http.post(narrow_url + "/generate", json={"inputs": "the cat"})
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    assert refused.json()["error_type"] == "overloaded"


def kept_alive(gateway: GatewayProcess) -> HTTPConnection:
    """A connection that has been used and may be again, as a balancer has them."""
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.request("GET", "/livez")
    connection.getresponse().read()
    return connection


def asked_late(connection: HTTPConnection, method: str, path: str, body: str | None = None) -> int | None:
    """The status of an answer that has come to its end; None: closed already, the client is to connect elsewhere."""
    with closing(connection):
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
        except (ConnectionError, HTTPException):
            return None
        assert response.read() and response.headers["Connection"] == "close"
        return response.status


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_lets_bound_requests_finish_and_exits(
    redis_url: str, worker: FakeWorker, tmp_path: Path, signum: signal.Signals
) -> None:
    worker.pause()
    got: dict[str, Any] = {}
    with GatewayProcess(redis_url, tmp_path / "log") as gateway:
        job_id = submit(gateway.url, 5).json()["id"]

        def generate() -> None:
            asked = {"inputs": "the cat", "parameters": {"max_new_tokens": 3}}
            got["generate"] = http.post(gateway.url + "/generate", json=asked)

        def wait() -> None:
            got["wait"] = http.get(f"{gateway.url}/jobs/{job_id}?wait=60")

        threads = [threading.Thread(target=work) for work in (generate, wait)]
        for thread in threads:
            thread.start()
        kept = [kept_alive(gateway) for _ in range(3)]
        with http.stream("GET", f"{gateway.url}/jobs/{job_id}/stream") as response:
            until(lambda: len(worker.running) == 2, 30, "both jobs")
            gateway.process.send_signal(signum)
            assert [e for _, e in frames(response)] == [], "the stream is ended, to be resumed elsewhere"
        assert asked_late(kept[0], "GET", "/readyz") in (503, None)
        assert asked_late(kept[1], "POST", "/generate", '{"inputs": "the cat"}') in (503, None)
        assert asked_late(kept[2], "GET", f"/jobs/{job_id}/stream") in (200, None)
        threads[1].join(30)
        assert got["wait"].status_code == 200 and got["wait"].json()["status"] == "in_progress"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", gateway.port), timeout=5)
        worker.steps.set()
        threads[0].join(30)
        assert got["generate"].json() == {"generated_text": "w0 w1 w2 "}
        assert gateway.process.wait(60) == 0
    record = until(lambda: (r := worker.ledger.record(job_id)) and r.terminal and r, 30, "the end")
    assert record.state == "completed", "the job did not mind"


def test_a_bound_request_that_outlasts_the_drain_is_told_and_cancelled(
    redis_url: str, worker: FakeWorker, tmp_path: Path
) -> None:
    worker.pause()
    with GatewayProcess(redis_url, tmp_path / "log", DRAIN_TIMEOUT="0.5", GATEWAY_WORKERS="2") as gateway:
        asked = {"inputs": "the cat", "parameters": {"max_new_tokens": 3}}
        with http.stream("POST", gateway.url + "/generate_stream", json=asked) as response:
            job_id = until(lambda: next(iter(worker.running), None), 30, "the job")
            assert gateway.terminate() == 0
            assert [e["error_type"] for _, e in frames(response)] == ["overloaded"]
    record = worker.ledger.record(job_id)
    assert record is not None and record.state == "cancelled"


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    process = GatewayProcess("redis://127.0.0.1:1/0", tmp_path / "log", GATEWAY_THREADS="many")
    assert process.process.wait(60) == 1
    assert "GATEWAY_THREADS" in process.log.read_text()
