"""Sentinels that promote the replica: streams are exact, submissions go on, nothing is stuck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from redis import Redis

from sagrada.embedded import free_port
from tests.chaos.test_failover import try_to_submit
from tests.chaos.test_processes import MODEL, ids_of, nothing_left, submit
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.sentinels import NAME, Sentinels
from tests.support.sse import follow
from wire.keys import job_key

pytestmark = pytest.mark.full


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    with Sentinels(tmp_path / "sentinels") as running:
        yield running


@pytest.fixture
def fleet(sentinels: Sentinels, tmp_path: Path) -> Iterator[Fleet]:
    logs = tmp_path / "logs"
    logs.mkdir()
    with Fleet(
        sentinels.url(), logs, model=MODEL, workers=2, env={"SERVED_MODEL_NAME": "scripted"}
    ) as running:
        yield running.ready()


def submit_at_last(fleet: Fleet, number: int) -> str:
    """As a client that tries again when it is told 503."""
    return str(until(lambda: try_to_submit(fleet, number), 60, "a submission to be accepted"))


def all_completed(fleet: Fleet, jobs: list[str]) -> bool:
    def status(job: str) -> str:
        return str(httpx.get(f"{fleet.url}/jobs/{job}", params={"wait": 60}, timeout=90).json()["status"])

    return {status(job) for job in jobs} == {"completed"}


class Crowd:
    """Twenty streams of jobs that have run once before: what they bring now can be compared."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._readers = fleet, ThreadPoolExecutor(20)
        self._expected = self._run()()

    def start(self) -> None:
        """Begin again, and be in the middle of it."""
        self._finish = self._run()
        time.sleep(0.5)

    def is_exact(self) -> bool:
        return bool(self._finish() == self._expected)

    def _run(self) -> Any:
        jobs = [submit(self._fleet, number) for number in range(20)]
        streams = [self._readers.submit(follow, self._fleet.url, job) for job in jobs]
        return lambda: [ids_of(stream.result()) for stream in streams]


def plain_producer(sentinels: Sentinels) -> Celery:
    """An application that knows nothing of Sagrada: Celery's own settings for sentinels."""
    known = {"master_name": NAME}
    changes = {"broker_transport_options": known, "result_backend_transport_options": known}
    url = sentinels.url().partition("?")[0]
    return Celery(broker=url, backend=url, set_as_current=False, changes=changes)


def send(app: Celery, count: int) -> list[str]:
    """Tasks of various lengths."""
    return [
        app.send_task(
            "sagrada.generate",
            queue="sagrada.scripted",
            kwargs={"inputs": "a", "parameters": {"max_new_tokens": 30 + 10 * n, "ignore_eos": True}},
        ).id
        for n in range(count)
    ]


def results_stored(fleet: Fleet, tasks: list[str]) -> bool:
    return bool(fleet.redis.exists(*(f"celery-task-meta-{task}" for task in tasks)) == len(tasks))


def test_a_killed_master(sentinels: Sentinels, fleet: Fleet) -> None:
    crowd = Crowd(fleet)
    crowd.start()
    with plain_producer(sentinels) as producer:
        tasks = send(producer, 10)
        new = sentinels.replica
        until(lambda: sentinels.caught_up(new), 30, "the replica to have heard of them")
        sentinels.master.kill()
        later = [submit_at_last(fleet, number) for number in range(20, 25)]
        assert sentinels.master is new
        assert crowd.is_exact()
        assert all_completed(fleet, later)
        tasks += send(producer, 2)
        until(lambda: results_stored(fleet, tasks), 60, "every task's result")
        until(lambda: nothing_left(fleet), 15, "every message to be acked")


def test_a_master_that_hangs_and_comes_back(sentinels: Sentinels, fleet: Fleet) -> None:
    """It says nothing, its connections stay open; then it takes itself for the master until it is told otherwise."""
    crowd = Crowd(fleet)
    with plain_producer(sentinels) as producer:
        tasks = send(producer, 10)
        crowd.start()
        old, new = sentinels.master, sentinels.replica
        assert old.child is not None
        old.child.send_signal(signal.SIGSTOP)
        sentinels.promoted(new)
        later = [submit_at_last(fleet, number) for number in range(20, 25)]
        assert crowd.is_exact()
        assert all_completed(fleet, later)
        old.child.send_signal(signal.SIGCONT)

        def submits_until_it_follows() -> bool:
            later.append(submit_at_last(fleet, 20 + len(later)))
            time.sleep(0.2)
            return sentinels.follows(old)

        until(submits_until_it_follows, 60, "the old master to follow the new")
        assert all_completed(fleet, later)
        until(lambda: results_stored(fleet, tasks), 60, "every task's result")
        until(lambda: nothing_left(fleet), 60, "every message to be acked")


def test_planned_failovers(sentinels: Sentinels, fleet: Fleet) -> None:
    """There and back, by two of three sentinels: a master that lives on writes for a while, then refuses to."""
    crowd = Crowd(fleet)
    sentinels.kill_sentinel(0)
    for _ in range(2):
        old, new = sentinels.master, sentinels.replica
        crowd.start()
        sentinels.fail_over()
        sentinels.promoted(new)
        assert crowd.is_exact()
        with Redis.from_url(new.url) as client:

            def arrives(client: Redis = client) -> bool:
                return bool(client.exists(job_key(submit_at_last(fleet, 30))))

            until(arrives, 60, "the gateway to follow")
        later = [submit_at_last(fleet, number) for number in range(20, 25)]
        assert all_completed(fleet, later)
        until(partial(sentinels.follows, old), 60, "the old master to follow the new")
        assert all_completed(fleet, later)
        until(lambda: httpx.get(fleet.url + "/readyz").status_code == 200, 60, "the workers to be back")
    until(lambda: nothing_left(fleet), 15, "every message to be acked")


def test_up_serves_through_a_failover(sentinels: Sentinels, tmp_path: Path) -> None:
    """`sagrada up` with sentinels in REDIS_URL, and a password that it tells nobody."""
    port, output = free_port(), tmp_path / "output"
    url, data = f"http://127.0.0.1:{port}", str(tmp_path / "data")
    env = {**os.environ, "REDIS_URL": sentinels.url(query="&sentinel_password=hush")}
    command = [
        sys.executable,
        "-m",
        "sagrada",
        "up",
        "--model-id",
        MODEL,
        "--port",
        str(port),
        "--data-dir",
        data,
    ]
    with output.open("wb") as said:
        up = subprocess.Popen(command, env=env, stdout=said, stderr=said)
    try:
        until(lambda: "Ctrl-C drains and stops." in output.read_text() or up.poll() is not None)
        body = {"inputs": "a", "parameters": {"max_new_tokens": 100, "ignore_eos": True}}
        job = httpx.post(f"{url}/jobs", json=body, timeout=30).json()["id"]
        new = sentinels.replica
        until(lambda: sentinels.caught_up(new), 30, "the replica to have heard of it")
        sentinels.master.kill()
        assert len(follow(url, job)) == 101
        again = until(lambda: httpx.post(f"{url}/generate", json=body, timeout=60).status_code == 200, 60)
        assert again and sentinels.master is new
    finally:
        up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0
    logs = [output, *(tmp_path / "data" / "logs").iterdir()]
    assert sentinels.url() in output.read_text() and not any("hush" in log.read_text() for log in logs)
