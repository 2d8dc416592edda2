"""A job is stopped in every phase and in every way: its steps end, what it held is free, nobody else is disturbed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from tests.integration.fleet.phases import (
    BLOCK,
    BLOCKS,
    HELD,
    PHASES,
    Hall,
    body_of,
    hold,
    prompt,
    text,
)
from tests.support.processes import until
from tests.support.sse import follow, text_of
from wire.registry import Registry

TTL = 3.0
"""Seconds: enough for any phase to begin."""


@dataclass(frozen=True)
class Way:
    """How a job was asked for and how it is stopped; what becomes of it, and what its client is told."""

    route: str
    stop: str
    """`cancel`: by DELETE. `leave`: the client hangs up. `ttl`, `start_ttl`: its time is up."""
    state: str
    told: str = ""
    """In the body of a request that waits for the end."""


WAYS = {
    "cancelled": Way("/jobs", "cancel", "cancelled"),
    "cancelled while somebody waits": Way("/jobs?wait=60", "cancel", "cancelled", '"status":"cancelled"'),
    "cancelled /generate": Way("/generate", "cancel", "cancelled", '"incomplete_generation"'),
    "cancelled stream": Way("/generate_stream", "cancel", "cancelled", '"incomplete_generation_stream"'),
    "left /generate": Way("/generate", "leave", "cancelled"),
    "left stream": Way("/generate_stream", "leave", "cancelled"),
    "left wait": Way("/jobs?wait=60", "leave", "completed"),
    "expired": Way("/jobs", "ttl", "expired"),
    "expired while somebody waits": Way("/jobs?wait=60", "ttl", "expired", '"status":"expired"'),
    "expired /generate": Way("/generate", "ttl", "expired", "deadline passed"),
    "expired stream": Way("/generate_stream", "ttl", "expired", "deadline passed"),
    "not begun in time": Way("/jobs", "start_ttl", "expired"),
}
ALWAYS = {
    ("queued", "left /generate"),
    ("waiting for a slot", "cancelled while somebody waits"),
    ("waiting for blocks", "cancelled"),
    ("prefill", "cancelled"),
    ("decode", "left stream"),
    ("preempted", "cancelled"),
}
"""One of each phase; the others are of the long matrix."""


def cases() -> Iterator[Any]:
    for phase in PHASES:
        for way in WAYS:
            if WAYS[way].stop != "start_ttl" or phase == "queued":
                marks = () if (phase, way) in ALWAYS else (pytest.mark.full,)
                yield pytest.param(phase, way, marks=marks, id=f"{phase}-{way}".replace(" ", "_"))


class Client:
    """One that asks by a route, and may hang up."""

    def __init__(self, hall: Hall, way: Way) -> None:
        self._hall, self._way = hall, way
        self._connection = HTTPConnection("127.0.0.1", hall.fleet.ports[0], timeout=60)

    def ask(self, name: str, length: int, tokens: int) -> str:
        """Send the request; the id of its job."""
        known = self._hall.open()
        body = body_of(name, length, tokens)
        if self._way.stop.endswith("ttl"):
            body[self._way.stop] = TTL
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", self._way.route, json.dumps(body), headers)
        (job_id,) = until(lambda: self._hall.open() - known, what="the job")
        return str(job_id)

    def stop(self, job_id: str) -> None:
        """Have the job stopped: it is when this returns, but for a client's leaving."""
        if self._way.stop == "cancel":
            answer = httpx.delete(f"{self._hall.fleet.url}/jobs/{job_id}", timeout=30)
            assert answer.status_code == 200 and answer.json()["status"] == "cancelled", answer.text
        elif self._way.stop == "leave":
            self._connection.close()
        else:
            until(lambda: self._hall.state(job_id) == "expired", what="the deadline")

    def told(self) -> str:
        """The answer's body."""
        return self._connection.getresponse().read().decode()

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize(("phase", "way"), list(cases()))
def test_a_job_is_stopped(hall: Hall, phase: str, way: str) -> None:
    held, how = PHASES[phase], WAYS[way]
    client = Client(hall, how)
    bystanders, name, job_id = hold(hall, held, lambda victim: client.ask(victim, *held.victim))
    client.stop(job_id)
    since = len(hall.steps())
    if how.state != "completed":
        until(lambda: hall.state(job_id) == how.state, what="the end")
        until(lambda: job_id not in hall.held(), what="the worker to let go of it")
    if how.told:
        assert how.told in client.told()
    client.close()
    hall.pace(0)

    events = follow(hall.fleet.url, job_id)
    assert events[-1]["type"] == {"completed": "done"}.get(how.state, how.state)
    assert text(prompt(name, held.victim[0]), held.victim[1]).startswith(text_of(events))
    for bystander, expected in bystanders.items():
        assert text_of(follow(hall.fleet.url, bystander)) == expected
    if how.state != "completed":
        assert len(hall.steps_of(name, since=since)) <= held.most_steps
    until(lambda: not hall.left(), what="nothing to be left in Redis")
    if (phase, way) not in ALWAYS:  # after those it is looked at once, for all of them
        all_slots_and_blocks_can_be_had(hall)


def all_slots_and_blocks_can_be_had(hall: Hall) -> None:
    """Three jobs that take all slots, and nearly all blocks, run side by side."""
    since, number = len(hall.steps()), next(hall.numbers)
    blocks = {f"after-{number}-{index}": blocks for index, blocks in enumerate((26, 20, 14))}
    hall.pace(HELD)
    jobs = [hall.submit(name, BLOCK * count - 20, 20) for name, count in blocks.items()]
    until(lambda: all(hall.state(job_id) == "in_progress" for job_id in jobs), what="all to be taken")
    hall.pace(0)
    for job_id in jobs:
        assert follow(hall.fleet.url, job_id)[-1]["type"] == "done"
    together = [step for step in hall.steps()[since:] if all(f" {name}:" in step for name in blocks)]
    assert together, hall.steps()[since:]


def test_everything_is_free_afterwards(hall: Hall) -> None:
    """Those that were stopped hold nothing any more, and the registry says so though no step has run since."""
    hall.pace(0.02)
    httpx.delete(f"{hall.fleet.url}/jobs/{hall.submit('last', 500, 400)}", timeout=30)
    until(lambda: [(w.running, w.kv_free) for w in Registry(hall.fleet.redis).list()] == [(0, BLOCKS)])
    all_slots_and_blocks_can_be_had(hall)
