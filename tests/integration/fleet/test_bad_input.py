"""Bad input is answered, never dropped: by a fleet that serves, that is loading, and that failed to load."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.sse import follow


@pytest.mark.parametrize("route", ["/jobs", "/generate"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b'{"parameters": {}}', 422),
        (b'{"inputs": 5}', 422),
        (b'{"inputs": ""}', 422),
        (b'{"inputs": "x", "parameters": {"max_new_tokens": "many"}}', 422),
        (b'{"inputs": "x", "parameters": {"temperature": 0}}', 422),
        (b'{"inputs": "x", "parameters": {"max_new_tokens": 100000}}', 422),
        (b'{"inputs": "' + b"x" * 2000 + b'"}', 422),
        (b'{"inputs": "x", "model": "nobody-serves-this"}', 404),
    ],
)
def test_a_bad_request_is_answered_with_a_sentence(
    fleet: Fleet, route: str, body: bytes, status: int
) -> None:
    answer = httpx.post(fleet.url + route, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert len(answer.json()["error"]) > 10 and answer.json()["error_type"]


def test_an_unknown_job_is_404(fleet: Fleet) -> None:
    for method, path in [
        ("GET", "/jobs/none"),
        ("GET", "/jobs/none/stream"),
        ("POST", "/jobs/none/cancel"),
        ("DELETE", "/jobs/none"),
    ]:
        assert httpx.request(method, fleet.url + path).status_code == 404, (method, path)


def test_a_step_that_raises_fails_its_job_with_a_sentence_and_no_other(fleet: Fleet) -> None:
    def submit(inputs: str) -> str:
        body = {"inputs": inputs, "parameters": {"max_new_tokens": 20, "ignore_eos": True}}
        return str(httpx.post(fleet.url + "/jobs", json=body).json()["id"])

    bad, good = submit("please !raise@3"), submit("a bystander")
    events = follow(fleet.url, bad)
    assert events[-1]["type"] == "failed" and len(events[-1]["error"]) > 10, events
    job = httpx.get(f"{fleet.url}/jobs/{bad}").json()
    assert job["status"] == "failed" and job["error"]["message"] == events[-1]["error"]
    assert follow(fleet.url, good)[-1]["type"] == "done"


def test_a_model_that_is_loading_and_one_that_cannot_load(redis_url: str, tmp_path: Path) -> None:
    with Fleet(redis_url, tmp_path, workers=0) as fleet:
        slow = fleet.start_worker({"MODEL_ID": "scripted?warmup=600", "SERVED_MODEL_NAME": "slow"})
        broken = fleet.start_worker({"MODEL_ID": "scripted?no-such-option=1", "SERVED_MODEL_NAME": "broken"})

        def ask(model: str) -> httpx.Response | None:
            try:
                return httpx.post(fleet.url + "/jobs", json={"inputs": "x", "model": model}, timeout=10)
            except httpx.TransportError:
                return None

        def answers(model: str, word: str) -> httpx.Response | None:
            answer = ask(model)
            return answer if answer is not None and word in answer.text else None

        loading = until(lambda: answers("slow", "loading"), 60, "the loading answer")
        failed = until(lambda: answers("broken", "no-such-option"), 60, "the failed answer")
        for answer in (loading, failed):
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert broken.wait(30) != 0
        assert slow.poll() is None
