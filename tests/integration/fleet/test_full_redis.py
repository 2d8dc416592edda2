"""A Redis at `maxmemory` that evicts nothing: no new work is taken, and all that was accepted ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from sagrada.embedded import EmbeddedServer
from tests.integration.worker.workers import scripted
from tests.support.fleet import Fleet
from tests.support.full import full
from tests.support.processes import until
from tests.support.servers import serving
from tests.support.sse import follow, text_of
from wire.ledger import Ledger
from wire.registry import Registry

LEASE = 3.0


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with serving(tmp_path / "redis") as server:
        yield server


def body(number: int, tokens: int) -> dict[str, Any]:
    return {"inputs": f"Prompt {number}", "parameters": {"max_new_tokens": tokens, "seed": number}}


@pytest.mark.full
def test_nothing_new_is_accepted_and_what_was_accepted_ends(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    slots, jobs = 4, 12
    lengths = [300 if n < slots else 20 for n in range(jobs)]
    env = {"SLOTS": str(slots), "LOOKAHEAD": "0", "ENGINE_PATIENCE": "120"}
    with (
        Fleet(own_server.url, tmp_path, model="scripted?step=0.005", lease=LEASE, env=env) as fleet,
        ThreadPoolExecutor(2 * jobs) as clients,
    ):
        fleet.ready()
        (before,) = Registry(fleet.redis).list()

        def submit(number: int, tokens: int = 20) -> httpx.Response:
            return httpx.post(fleet.url + "/jobs", json=body(number, tokens), timeout=30)

        engine = fleet.engine_of(fleet.workers[0])
        os.kill(engine, signal.SIGSTOP)  # nothing ends before it is full, however busy this machine is
        ids = [submit(n, tokens).json()["id"] for n, tokens in enumerate(lengths)]
        streams = [clients.submit(follow, fleet.url, job_id) for job_id in ids]
        with full(fleet.redis, ballast=32 << 20):
            cancelled = jobs - 1
            assert state(fleet, ids[cancelled]) == "queued", (
                "the test is to see jobs that were begun in a full Redis"
            )
            assert httpx.post(f"{fleet.url}/jobs/{ids[cancelled]}/cancel").status_code == 200
            for refused in clients.map(submit, range(20)):
                assert refused.status_code == 503 and "maxmemory" in refused.json()["error"], refused.text
                assert int(refused.headers["retry-after"]) > 0
            os.kill(engine, signal.SIGCONT)
            until(lambda: events_of(fleet, ids[0]) > 50, what="tokens")
            # Whoever connects again has a full Redis to bind its queues and to own its jobs in.
            fleet.redis.client_kill_filter(_type="normal", skipme=True)
            fleet.redis.client_kill_filter(_type="pubsub")
            got = [stream.result(60) for stream in streams]
            assert submit(0).status_code == 503, "it was full all the time"
            for n, tokens in enumerate(lengths):
                if n != cancelled:
                    assert text_of(got[n]) == scripted(f"Prompt {n}", tokens, seed=n)
            assert got[cancelled][-1]["type"] == "cancelled"
            assert httpx.delete(f"{fleet.url}/jobs/{ids[0]}").status_code == 204
            time.sleep(LEASE)
        assert submit(0).status_code == 202
        (after,) = Registry(fleet.redis).list()
        assert after.boot == before.boot, "no lease was lost"


def events_of(fleet: Fleet, job_id: str) -> int:
    return len(Ledger(fleet.redis).read(job_id))


def state(fleet: Fleet, job_id: str) -> str:
    return str(httpx.get(f"{fleet.url}/jobs/{job_id}").json()["status"])


@pytest.mark.full
def test_a_worker_that_takes_over_in_a_full_redis_goes_on_with_its_jobs(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    with (
        Fleet(own_server.url, tmp_path, model="scripted?step=0.005", lease=LEASE) as fleet,
        ThreadPoolExecutor(8) as clients,
    ):
        fleet.ready()
        ids = [httpx.post(fleet.url + "/jobs", json=body(n, 500)).json()["id"] for n in range(8)]
        streams = [clients.submit(follow, fleet.url, job_id) for job_id in ids]
        with full(fleet.redis, ballast=32 << 20):
            fleet.workers[0].kill()
            fleet.start_worker()
            for n, stream in enumerate(streams):
                assert text_of(stream.result(90)) == scripted(f"Prompt {n}", 500, seed=n)
