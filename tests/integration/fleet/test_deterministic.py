"""DETERMINISTIC=true in a fleet: a job that went from worker to worker has the very text of one that did not."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.sse import follow
from wire import keys

pytest.importorskip("torch", reason="the demo model runs on torch, which this environment lacks")
pytestmark = pytest.mark.full

JOBS, TOKENS = 12, 120
SETTINGS = {"DTYPE": "bfloat16", "DETERMINISTIC": "true", "SLOTS": "8", "MAX_TOTAL_TOKENS": "256"}


def submit(fleet: Fleet, number: int) -> str:
    """Odd ones are sampled."""
    parameters = {"max_new_tokens": TOKENS, "ignore_eos": True, "do_sample": bool(number % 2), "seed": number}
    body = {"inputs": f"Once upon a time, {number} cats", "parameters": parameters}
    answer = httpx.post(f"{fleet.url}/jobs", json=body, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def begun(fleet: Fleet, jobs: list[str]) -> bool:
    """Whether as many as are compared have a few tokens, and none has all."""
    lengths = [fleet.redis.xlen(keys.log_key(job)) for job in jobs]
    return sum(length > 5 for length in lengths) >= JOBS // 2


def test_in_bfloat16_a_text_survives_its_workers_death_unchanged(redis_url: str, tmp_path: Path) -> None:
    with Fleet(redis_url, tmp_path, model="demo", workers=2, env=SETTINGS) as fleet:
        fleet.ready()
        jobs = [submit(fleet, number) for number in range(JOBS)]
        until(lambda: begun(fleet, jobs), 60, "tokens")
        fleet.workers[0].kill()
        disturbed = [follow(fleet.url, job, 120) for job in jobs]
        attempts = [int(fleet.redis.hget(keys.job_key(job), "attempt") or 0) for job in jobs]
        calm = [follow(fleet.url, submit(fleet, number), 120) for number in range(JOBS)]
    assert max(attempts) > 1, "nobody was resumed"
    for ours, others in zip(disturbed, calm, strict=True):
        tokens, expected = ([e for e in events if e["type"] == "token"] for events in (ours, others))
        assert len(expected) == TOKENS
        assert [(e["id"], e["logprob"]) for e in tokens] == [(e["id"], e["logprob"]) for e in expected]
