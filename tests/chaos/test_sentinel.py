"""Sentinels that promote the replica when the master dies: streams are exact, submissions go on, nothing is stuck."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.chaos.test_processes import MODEL, ids_of, nothing_left, submit
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.sentinels import Sentinels
from tests.support.sse import follow


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    with Sentinels(tmp_path / "sentinels") as running:
        yield running


def fleet_on(url: str, logs: Path) -> Fleet:
    logs.mkdir()
    return Fleet(url, logs, model=MODEL, workers=2, env={"SERVED_MODEL_NAME": "scripted"})


def submit_at_last(fleet: Fleet, number: int) -> str:
    """As a client that tries again when it is told 503: for a minute at most."""

    def accepted() -> str | None:
        body = {"inputs": f"prompt {number}", "parameters": {"max_new_tokens": 20, "ignore_eos": True}}
        answer = httpx.post(f"{fleet.url}/jobs", json=body, timeout=30)
        assert answer.status_code in (202, 503), answer.text
        return str(answer.json()["id"]) if answer.status_code == 202 else None

    return str(until(accepted, 60, "a submission to be accepted"))


def test_a_killed_master(sentinels: Sentinels, tmp_path: Path) -> None:
    with fleet_on(sentinels.url(), tmp_path / "logs") as fleet, ThreadPoolExecutor(20) as readers:
        fleet.ready()
        undisturbed = [readers.submit(follow, fleet.url, submit(fleet, n)) for n in range(20)]
        expected = [ids_of(stream.result()) for stream in undisturbed]
        jobs = [submit(fleet, n) for n in range(20)]
        streams = [readers.submit(follow, fleet.url, job) for job in jobs]
        time.sleep(0.5)
        old, new = sentinels.master, sentinels.replica
        old.kill()
        t = time.monotonic()
        later = [submit_at_last(fleet, n) for n in range(20, 25)]
        print("submitted", time.monotonic() - t)
        assert sentinels.master is new
        assert [ids_of(stream.result()) for stream in streams] == expected
        print("streams", time.monotonic() - t)
        for job in later:
            answer = httpx.get(f"{fleet.url}/jobs/{job}", params={"wait": 30}, timeout=60)
            assert answer.json()["status"] == "completed", answer.text
        print("later", time.monotonic() - t)
        until(lambda: nothing_left(fleet), 15, "every message to be acked")
        print("left", time.monotonic() - t)
