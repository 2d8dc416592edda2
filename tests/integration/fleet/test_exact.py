"""Many jobs at once through HTTP: every greedy text is transformers' own, and nothing is compiled."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.demo import WEIGHTS
from tests.support.fleet import Fleet
from wire.registry import Registry

torch = pytest.importorskip("torch", reason="the demo model runs on torch, which this environment lacks")

PROMPTS = [
    "Once upon a time, Lily went to the",
    "Q: What is the capital of Japan?\nA:",
    "def factorial(n):",
    "One day, Tom was at the park.",
    "Q: What color is the sky?\nA:",
    "The",
]


def requests(count: int) -> list[tuple[str, int]]:
    """(prompt, tokens) of each job: short and long prompts and outputs, mixed."""
    dice = random.Random(7)
    return [
        (" ".join(dice.choices(PROMPTS, k=dice.choice([1, 1, 2, 6, 12]))), dice.choice([1, 4, 16, 40, 64]))
        for _ in range(count)
    ]


def oracle(wanted: list[tuple[str, int]]) -> list[str]:
    """transformers' greedy text for each, in float64, alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS).to(torch.float64).eval()
    texts = []
    for prompt, tokens in wanted:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=tokens, do_sample=False)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert isinstance(text, str)
        texts.append(text)
    return texts


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.full)])
def test_concurrent_jobs_are_exact(count: int, redis_url: str, tmp_path: Path) -> None:
    wanted = requests(count)
    with Fleet(redis_url, tmp_path, model="demo", env={"DTYPE": "float64", "SLOTS": "32"}) as fleet:
        fleet.ready()

        def run(request: tuple[str, int]) -> dict[str, Any]:
            body = {"inputs": request[0], "parameters": {"max_new_tokens": request[1]}}
            answer = httpx.post(fleet.url + "/jobs?wait=60", json=body, timeout=90)
            while answer.json()["status"] in ("queued", "in_progress"):
                answer = httpx.get(f"{fleet.url}/jobs/{answer.json()['id']}?wait=60", timeout=90)
            job: dict[str, Any] = answer.json()
            assert job["status"] == "completed", job
            return job

        with ThreadPoolExecutor(count) as clients:
            jobs = list(clients.map(run, wanted))
        workers = Registry(fleet.redis).list()
    differing = [
        (request, job["result"]["text"], text)
        for request, job, text in zip(wanted, jobs, oracle(wanted), strict=True)
        if job["result"]["text"] != text
    ]
    assert not differing, f"{len(differing)} of {count} texts differ, first: {differing[0]}"
    assert sum(worker.counters["compilations"] for worker in workers) == 0
