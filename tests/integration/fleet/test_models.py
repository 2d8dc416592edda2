"""A fleet of several models: each has its queue and its workers, and the gateway tells truly which can be had."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.step import Sampling
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.servers import serving
from worker.script import say

SEEDS = {"alpha": 0, "beta": 1}
"""Model → the seed of its script: each says something else to one prompt."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One gateway; a worker of the model `alpha`, one of `beta`."""
    folder = tmp_path_factory.mktemp("models")
    with serving(folder / "redis") as server, Fleet(server.url, folder, workers=0) as fleet:
        for model, seed in SEEDS.items():
            start(fleet, model, f"scripted?step=0.002&seed={seed}")
        yield fleet.ready(2)


def start(fleet: Fleet, model: str, model_id: str) -> Any:
    return fleet.start_worker({"MODEL_ID": model_id, "SERVED_MODEL_NAME": model})


def generate(fleet: Fleet, model: str | None, path: str = "/jobs?wait=30") -> httpx.Response:
    body = {"inputs": "who is it?", "parameters": {"max_new_tokens": 24, "seed": 3, "ignore_eos": True}}
    return httpx.post(fleet.url + path, json=body if model is None else body | {"model": model}, timeout=60)


def text(model: str) -> str:
    said = bytes(say(b"who is it?", Sampling(seed=3), 24, SEEDS[model]))
    return said.decode(errors="replace")


def model_of(fleet: Fleet, model: str) -> dict[str, Any]:
    return dict(httpx.get(fleet.url + "/info", params={"model": model}, timeout=30).json())


def test_each_model_has_its_queue(fleet: Fleet) -> None:
    assert httpx.get(fleet.url + "/readyz").json()["models"] == ["alpha", "beta"]
    for model in SEEDS:
        info = model_of(fleet, model)
        assert (info["model_id"], info["queue"]) == (model, f"sagrada.{model}")
        assert [w["state"] for w in info["workers"]] == ["serving"]


def test_a_request_goes_to_the_model_that_it_names(fleet: Fleet) -> None:
    answers = {model: generate(fleet, model).json() for model in SEEDS}
    assert {model: job["model"] for model, job in answers.items()} == {model: model for model in SEEDS}
    assert {model: job["result"]["text"] for model, job in answers.items()} == {m: text(m) for m in SEEDS}
    assert text("alpha") != text("beta")


def test_without_a_name_it_goes_to_the_one_that_is_served_longest(fleet: Fleet) -> None:
    assert generate(fleet, None).json()["model"] == httpx.get(fleet.url + "/info").json()["model_id"]


def test_a_model_that_nobody_serves_is_not_found(fleet: Fleet) -> None:
    answer = generate(fleet, "gamma")
    assert answer.status_code == 404 and answer.json()["error_type"] == "model_not_found"
    assert "known are: alpha, beta" in answer.json()["error"]


def test_a_model_that_loads_is_unavailable_and_says_how_far_it_is(fleet: Fleet) -> None:
    worker = start(fleet, "slow", "scripted?warmup=30")
    try:
        until(lambda: generate(fleet, "slow").status_code == 503, 60, "the worker's first word")

        def progress() -> float | None:
            answer = generate(fleet, "slow")
            assert answer.status_code == 503 and answer.json()["error_type"] == "model_unavailable"
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["error"].startswith("the model 'slow' is loading: ")
            return float(model_of(fleet, "slow")["workers"][0]["progress"]) or None

        until(progress, 60, "progress of the warm-up")
        # The others are none the worse for it.
        assert generate(fleet, "alpha").json()["status"] == "completed"
        assert httpx.get(fleet.url + "/readyz").json()["models"] == ["alpha", "beta"]
    finally:
        worker.kill()
        worker.wait()
        fleet.workers.remove(worker)


def test_a_model_whose_last_worker_went_is_unavailable_not_unknown(fleet: Fleet) -> None:
    worker = start(fleet, "brief", "scripted")
    until(lambda: generate(fleet, "brief").status_code == 200, 60, "the model")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    fleet.workers.remove(worker)
    until(lambda: generate(fleet, "brief", "/jobs").status_code == 503, 30, "the gateway to hear of it")
    answer = generate(fleet, "brief")
    assert "are gone" in answer.json()["error"] and answer.headers["Retry-After"]
    assert generate(fleet, "alpha").json()["status"] == "completed"


def test_a_model_that_cannot_be_loaded_says_why(fleet: Fleet) -> None:
    worker = start(fleet, "broken", "scripted?fail=no+such+weights")
    worker.wait(60)
    fleet.workers.remove(worker)
    answer = generate(fleet, "broken")
    assert answer.status_code == 503
    assert "failed to load" in answer.json()["error"] and "no such weights" in answer.json()["error"]


def test_two_workers_of_one_model_share_its_queue(fleet: Fleet, tmp_path: Path) -> None:
    second = start(fleet, "alpha", "scripted?step=0.002&seed=0")
    until(lambda: len(model_of(fleet, "alpha")["workers"]) == 2, 60, "the second worker")
    until(lambda: all(w["state"] == "serving" for w in model_of(fleet, "alpha")["workers"]), 60, "its model")
    ids = [generate(fleet, "alpha", "/jobs").json()["id"] for _ in range(200)]
    for id in ids:
        job = httpx.get(f"{fleet.url}/jobs/{id}", params={"wait": 30}, timeout=60).json()
        assert (job["status"], job["result"]["text"]) == ("completed", text("alpha"))
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 0
    fleet.workers.remove(second)
