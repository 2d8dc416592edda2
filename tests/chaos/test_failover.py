"""A Redis that fails over to a replica which lags behind: what that loses is put back, or was never promised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from sagrada.embedded import EmbeddedServer
from tests.chaos.test_processes import MODEL, ids_of, nothing_left, submit
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.proxy import Proxy
from tests.support.sse import follow

LAG = 0.5
"""Seconds of the master's last writes that the replica never hears of: some 25 steps of every job."""


@dataclass
class Pair:
    """A master and its replica, and what clients take for Redis."""

    master: EmbeddedServer
    replica: EmbeddedServer
    link: Proxy
    front: Proxy

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.front.port}/0"

    def info(self, section: str) -> dict[str, Any]:
        with Redis.from_url(self.replica.url) as client:
            found: Any = client.info(section)
            return dict(found)

    def lag(self) -> None:
        """From now on the replica hears nothing."""
        self.link.stall()

    def fail_over(self) -> None:
        """The master dies, the replica is promoted with what it has, and the address leads there."""
        self.master.kill()
        self.link.reset()
        self.link.go_on()
        with Redis.from_url(self.replica.url) as client:
            client.replicaof("NO", "ONE")
        self.front.turn_to(self.replica.port)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    master = EmbeddedServer(tmp_path / "master")
    master.start()
    with Proxy(master.port) as link, Proxy(master.port) as front:
        # A replica pings, and is given up, far slower than these tests last.
        flags = ("--replicaof", "127.0.0.1", str(link.port), "--repl-timeout", "600")
        replica = EmbeddedServer(tmp_path / "replica", flags=flags)
        replica.start()
        made = Pair(master, replica, link, front)
        until(lambda: made.info("replication")["master_link_status"] == "up", 30, "the replica to be in step")
        yield made
    for server in (replica, master):
        server.stop()


def fleet_on(pair: Pair, logs: Path, **env: str) -> Fleet:
    logs.mkdir()
    settings = {"SERVED_MODEL_NAME": "scripted", **env}
    return Fleet(pair.url, logs, model=MODEL, workers=2, env=settings)


def try_to_submit(fleet: Fleet, number: int) -> str | None:
    """The job's id, or None if it was refused with 503."""
    body = {"inputs": f"prompt {number}", "parameters": {"max_new_tokens": 20, "ignore_eos": True}}
    answer = httpx.post(f"{fleet.url}/jobs", json=body, timeout=30)
    assert answer.status_code in (202, 503), answer.text
    return str(answer.json()["id"]) if answer.status_code == 202 else None


def test_running_jobs_lose_no_token_that_a_client_has_seen(pair: Pair, tmp_path: Path) -> None:
    """Twenty streams run through the failover: each is what it would have been, and no message is left over."""
    with fleet_on(pair, tmp_path / "logs") as fleet, ThreadPoolExecutor(20) as readers:
        fleet.ready()
        undisturbed = [readers.submit(follow, fleet.url, submit(fleet, n)) for n in range(20)]
        expected = [ids_of(stream.result()) for stream in undisturbed]
        jobs = [submit(fleet, n) for n in range(20)]
        streams = [readers.submit(follow, fleet.url, job) for job in jobs]
        time.sleep(0.5)
        pair.lag()
        time.sleep(LAG)
        pair.fail_over()
        assert [ids_of(stream.result()) for stream in streams] == expected
        until(lambda: nothing_left(fleet), 15, "every message to be acked")


@pytest.mark.full
def test_only_what_the_replica_had_not_heard_of_can_be_lost(pair: Pair, tmp_path: Path) -> None:
    """Relaxed: a job that was submitted before the lag ends; one that was submitted in it ends, or is unknown."""
    with fleet_on(pair, tmp_path / "logs") as fleet:
        fleet.ready()
        before = [job for n in range(20) if (job := try_to_submit(fleet, n))]
        time.sleep(0.2)
        pair.lag()
        during = [job for n in range(20) if (job := try_to_submit(fleet, n))]
        pair.fail_over()
        until(lambda: httpx.get(fleet.url + "/readyz").status_code == 200, 30, "the gateway to be back")

        def ended(jobs: list[str]) -> bool:
            answers = [httpx.get(f"{fleet.url}/jobs/{job}") for job in jobs]
            states = {answer.json().get("status", "unknown") for answer in answers}
            return states <= {"completed", "unknown"}

        until(lambda: ended([*before, *during]), 60, "every job to end")
        found = [httpx.get(f"{fleet.url}/jobs/{job}").status_code for job in before]
        assert (len(before), len(during), found) == (20, 20, [200] * 20)


@pytest.mark.full
def test_strict_durability_loses_no_accepted_job(pair: Pair, tmp_path: Path) -> None:
    """A job is accepted only once the replica has it: while that lags nothing is, and everything accepted ends."""
    env = {"DURABILITY": "strict", "DURABILITY_REPLICAS": "1"}
    with fleet_on(pair, tmp_path / "logs", **env) as fleet:
        fleet.ready()
        accepted = [job for n in range(20) if (job := try_to_submit(fleet, n))]
        assert len(accepted) == 20
        pair.lag()
        assert try_to_submit(fleet, 20) is None
        pair.fail_over()
        # The promoted one has no replica: nothing can be made as durable as was asked for.
        until(lambda: httpx.get(fleet.url + "/readyz").status_code == 200, 30, "the gateway to be back")
        for job in accepted:
            answer = httpx.get(f"{fleet.url}/jobs/{job}", params={"wait": 30}, timeout=60)
            assert answer.json()["status"] == "completed", answer.text
