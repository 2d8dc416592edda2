"""Versions share one Redis: what older ones left there runs through today's code, what newer ones leave is let be.

tests/recorded/record.py has made the files, each with the code of its time.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.step import Sampling
from sagrada.embedded import EmbeddedServer
from tests.recorded.record import PROMPT, QUEUE, TOKENS
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.servers import serving
from tests.support.sse import follow, text_of
from wire.codec import WIRE_VERSION
from wire.keys import job_key
from wire.queue import TaskQueue
from wire.redis_url import client
from worker.script import say

RECORDED = Path(__file__).parents[2] / "recorded"
TEXT = bytes(say(PROMPT.encode(), Sampling(seed=7), TOKENS)).decode(errors="replace")


def put(redis: Any, file: Path) -> None:
    """Everything that a recording holds, into an empty Redis."""
    raw = base64.b64decode
    for key, entry in json.loads(file.read_text())["keys"].items():
        value = entry["value"]
        match entry["type"]:
            case "hash":
                redis.hset(key, mapping={raw(k): raw(v) for k, v in value.items()})
            case "zset":
                redis.zadd(key, {raw(k): score for k, score in value.items()})
            case "stream":
                for id, fields in value:
                    redis.xadd(key, {raw(k): raw(v) for k, v in fields.items()}, id=id)
            case "string":
                redis.set(key, raw(value))
            case _:
                redis.rpush(key, *map(raw, value))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """One of its own: what is left in it must be seen by nobody else."""
    with serving(tmp_path / "redis") as made:
        yield made


def today(server: EmbeddedServer, logs: Path) -> Fleet:
    return Fleet(server.url, logs, model="scripted?step=0.005", env={"SERVED_MODEL_NAME": "scripted"})


def test_every_version_so_far_is_recorded() -> None:
    versions = {json.loads(file.read_text())["version"] for file in RECORDED.glob("v*.json")}
    assert versions == set(range(1, WIRE_VERSION + 1))


@pytest.mark.parametrize("version", range(1, WIRE_VERSION + 1))
def test_what_an_older_version_left_comes_to_its_end(
    version: int, server: EmbeddedServer, tmp_path: Path
) -> None:
    with client(server.url) as redis:
        put(redis, RECORDED / f"v{version}.json")
    with today(server, tmp_path) as fleet:
        fleet.ready()
        for state in ("completed", "running", "queued"):
            job = httpx.get(f"{fleet.url}/jobs/{state}-v{version}", params={"wait": 30}, timeout=60).json()
            assert (job["status"], job["result"]["text"]) == ("completed", TEXT), state
            assert job["usage"]["completion_tokens"] == TOKENS
            assert text_of(follow(fleet.url, job["id"])) == TEXT, state
        assert not TaskQueue(fleet.redis, QUEUE).size()


def test_what_a_newer_version_left_waits_for_a_newer_worker_and_holds_up_nobody(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    newer = f"queued-v{WIRE_VERSION}"
    redis: Any = client(server.url)
    put(redis, RECORDED / f"v{WIRE_VERSION}.json")
    redis.hset(job_key(newer), "v", WIRE_VERSION + 1)
    with redis, today(server, tmp_path) as fleet:
        fleet.ready()
        body = {"inputs": "an older one", "parameters": {"max_new_tokens": 5}}
        for _ in range(5):
            job = httpx.post(f"{fleet.url}/jobs?wait=30", json=body, timeout=60).json()
            assert job["status"] == "completed", job
        waiting = httpx.get(f"{fleet.url}/jobs/{newer}", timeout=30).json()
        assert waiting["status"] == "queued", waiting
        assert fleet.workers[0].poll() is None
        # The rest of the fleet is upgraded, and one of its workers reads that version.
        redis.hset(job_key(newer), "v", WIRE_VERSION)

        def done() -> bool:
            return bool(httpx.get(f"{fleet.url}/jobs/{newer}", timeout=30).json()["status"] == "completed")

        until(done, 60, "the newer job, once somebody reads it")
