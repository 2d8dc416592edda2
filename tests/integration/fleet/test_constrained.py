"""Constrained jobs over HTTP: what ends is what was asked for, though some are cancelled and the engine is killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.grammars import check, grammars
from tests.support.processes import until
from tests.support.sse import follow, text_of
from wire import keys
from wire.grammar import Grammar, Regex, Schema
from wire.registry import Registry

pytest.importorskip("torch", reason="the demo model runs on torch, which this environment lacks")

JOBS, TOKENS = 18, 200
SETTINGS = {"SLOTS": "8", "MAX_TOTAL_TOKENS": "256", "KV_BLOCKS": "30"}


def given(grammar: Grammar) -> dict[str, Any]:
    """As a client of TGI writes it."""
    match grammar:
        case Regex(pattern):
            return {"type": "regex", "value": pattern}
        case Schema(schema):
            return {"type": "json", "value": json.loads(schema)}
    raise AssertionError(f"{grammar} is none that is drawn here")


def submit(fleet: Fleet, number: int, grammar: Grammar) -> str:
    parameters = {
        "max_new_tokens": TOKENS,
        "do_sample": bool(number % 3),
        "seed": number,
        "grammar": given(grammar),
    }
    answer = httpx.post(
        f"{fleet.url}/jobs", json={"inputs": "Once upon a time", "parameters": parameters}, timeout=30
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_what_ends_is_what_was_asked_for(redis_url: str, tmp_path: Path) -> None:
    asked = grammars(JOBS, seed=3)
    with Fleet(redis_url, tmp_path, model="demo", env=SETTINGS) as fleet:
        fleet.ready()
        jobs = {submit(fleet, number, grammar): grammar for number, grammar in enumerate(asked)}
        until(lambda: sum(fleet.redis.xlen(keys.log_key(job)) > 3 for job in jobs) >= JOBS // 4, 60, "tokens")
        os.kill(fleet.engine_of(fleet.workers[0]), signal.SIGKILL)
        for job in list(jobs)[::6]:  # one that has ended is gone with all it left
            if httpx.delete(f"{fleet.url}/jobs/{job}", timeout=30).status_code == 204:
                del jobs[job]
        events = {job: follow(fleet.url, job, 120) for job in jobs}
        attempts = [int(fleet.redis.hget(keys.job_key(job), "attempt") or 0) for job in jobs]
        compilations = [worker.counters["compilations"] for worker in Registry(fleet.redis).list()]
    assert max(attempts) > 1, "nobody was resumed"
    assert compilations == [0]
    assert {told[-1]["type"] for told in events.values()} <= {"done", "cancelled"}
    ended = {
        job: text_of(told) for job, told in events.items() if told[-1].get("finish_reason") == "eos_token"
    }
    for job, text in ended.items():
        check(jobs[job], text)
    assert len(ended) > JOBS / 4


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ({"type": "regex", "value": "("}, "grammar is not valid"),
        ({"type": "regex", "value": "(?=a)b"}, "grammar is not valid"),
        (
            {"type": "json", "value": {"properties": {"a": {"not": {"type": "string"}}}}},
            "grammar is not valid",
        ),
    ],
)
def test_a_grammar_that_cannot_be_followed_is_told(fleet: Fleet, grammar: dict[str, Any], why: str) -> None:
    body = {"inputs": "a", "parameters": {"grammar": grammar}}
    answer = httpx.post(f"{fleet.url}/generate", json=body, timeout=60)
    assert answer.status_code == 422 and answer.json()["error_type"] == "validation"
    assert why in answer.json()["error"]
