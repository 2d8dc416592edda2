"""TGI's two routes: what its clients see, and that both are bound to their connection."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.integration.gateway.client import Post, http
from tests.integration.gateway.fake import EOS, FakeWorker
from tests.support.processes import until
from tests.support.sse import frames
from wire.job import choice_seed


def body(tokens: int = 3, inputs: str = "the cat", **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": {"max_new_tokens": tokens, **parameters}}


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a TGI stream, which are `data:` lines and nothing else."""
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == "" and all(b.startswith("data: ") and "\n" not in b for b in blocks), answer.text
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def test_generate(url: str, worker: FakeWorker) -> None:
    answer = http.post(url + "/generate", json=body())
    assert answer.status_code == 200 and answer.json() == {"generated_text": "w0 w1 w2 "}
    assert answer.headers["x-prompt-tokens"] == "2" and answer.headers["x-generated-tokens"] == "3"
    assert answer.headers["x-compute-characters"] == "7" and float(answer.headers["x-compute-time"]) > 0
    names = ("total", "validation", "queue", "inference")
    assert all(int(answer.headers[f"x-{name}-time"]) >= 0 for name in names)
    assert (
        int(answer.headers["x-time-per-token"]) >= 0 and answer.headers["x-compute-type"] == "cpu+optimized"
    )


def test_generate_with_details(url: str, worker: FakeWorker) -> None:
    answer = http.post(url + "/generate", json=body(2, details=True, return_full_text=True)).json()
    assert answer["generated_text"] == "the catw0 w1 "
    tokens = [{"id": 2 + n, "text": f"w{n} ", "logprob": -0.5, "special": False} for n in range(2)]
    assert answer["details"] == {
        "finish_reason": "length",
        "generated_tokens": 2,
        "seed": None,
        "prefill": [],
        "tokens": tokens,
    }
    sampled = http.post(url + "/generate", json=body(1, details=True, seed=5, do_sample=True)).json()
    assert sampled["details"]["seed"] == 5
    bare = http.post(url + "/generate", json={"inputs": "the cat fail"})
    assert bare.status_code == 424, "no parameters at all is a request too"


def test_the_best_of_two(url: str, worker: FakeWorker) -> None:
    """The other one stands in the details; the headers count the one that was chosen, as TGI's do."""
    asked = body(3, best_of=2, do_sample=True, return_full_text=True)
    plain = http.post(url + "/generate", json=asked)
    assert plain.json() == {"generated_text": "the catw0.0 w0.1 w0.2 "}
    assert plain.headers["x-generated-tokens"] == "3" and plain.headers["x-prompt-tokens"] == "2"

    answer = http.post(url + "/generate", json=body(3, best_of=2, do_sample=True, details=True))
    details = answer.json()["details"]
    (other,) = details.pop("best_of_sequences")
    assert answer.headers["x-generated-tokens"] == "3"
    assert answer.json()["generated_text"] == "w0.0 w0.1 w0.2 " and details["generated_tokens"] == 3
    assert other == {
        "generated_text": "w1.0 w1.1 ",
        "finish_reason": "eos_token",
        "generated_tokens": 2,
        "seed": choice_seed(details["seed"], 1),
        "prefill": [],
        "tokens": [{"id": 2 + n, "text": f"w1.{n} ", "logprob": -0.5, "special": False} for n in range(2)],
    }
    assert [token["text"] for token in details["tokens"]] == ["w0.0 ", "w0.1 ", "w0.2 "]

    alone = http.post(url + "/generate", json=body(3, best_of=2, n=1, do_sample=True, details=True)).json()
    assert "best_of_sequences" not in alone["details"] and alone["details"]["generated_tokens"] == 3


def test_the_end_of_sequence_token_is_shown_but_is_no_text(url: str, worker: FakeWorker) -> None:
    asked = body(50, details=True, min_new_tokens=2)
    answer = http.post(url + "/generate", json=asked).json()
    assert answer["generated_text"] == "w0 w1 " and answer["details"]["finish_reason"] == "eos_token"
    eos = {"id": EOS, "text": "</s>", "logprob": -0.1, "special": True}
    assert answer["details"]["tokens"][-1] == eos
    last = events(http.post(url + "/generate_stream", json=asked))[-1]
    assert last["token"] == eos and last["generated_text"] == "w0 w1 "


def test_generate_stream(url: str, worker: FakeWorker) -> None:
    answer = http.post(url + "/generate_stream", json=body(3, details=True))
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-compute-characters"] == "7" and answer.headers["x-accel-buffering"] == "no"
    got = events(answer)
    token = {"id": 2, "text": "w0 ", "logprob": -0.5, "special": False}
    assert got[0] == {"index": 1, "token": token, "generated_text": None, "details": None}
    assert [list(event) for event in got] == [["index", "token", "generated_text", "details"]] * 3
    assert [event["index"] for event in got] == [1, 2, 3]
    details = {"finish_reason": "length", "generated_tokens": 3, "seed": None, "input_length": 2}
    assert got[2]["generated_text"] == "w0 w1 w2 " and got[2]["details"] == details
    plain = events(http.post(url + "/generate_stream", json=body(2)))
    assert plain[-1]["generated_text"] == "w0 w1 " and plain[-1]["details"] is None


def test_a_stream_goes_on_with_another_worker(url: str, worker: FakeWorker) -> None:
    """What is news to the gateway alone, such as a new attempt, is not taken for the end."""
    worker.pause()
    asked = {"inputs": "the cat", "parameters": {"max_new_tokens": 2}}
    with http.stream("POST", url + "/generate_stream", json=asked) as response:
        until(lambda: worker.running, 30, "the job")
        worker.resume_all()
        worker.steps.set()
        assert [event["token"]["text"] for _, event in frames(response)] == ["w0 ", "w1 "]


def test_only_the_last_event_of_a_stopped_stream_has_the_text(url: str, worker: FakeWorker) -> None:
    got = events(http.post(url + "/generate_stream", json=body(50, stop=["w4"], details=True)))
    assert [event["generated_text"] for event in got[:-1]] == [None] * 4
    assert got[-1]["generated_text"] == "w0 w1 w2 w3 w4 "
    assert got[-1]["details"]["finish_reason"] == "stop_sequence"


def test_so_has_that_of_a_stream_stopped_by_a_token(url: str, worker: FakeWorker) -> None:
    token = http.post(url + "/generate", json=body(5, details=True)).json()["details"]["tokens"][4]
    got = events(
        http.post(url + "/generate_stream", json=body(50, stop_token_ids=[token["id"]], details=True))
    )
    assert [event["generated_text"] for event in got] == [None] * 4 + ["w0 w1 w2 w3 w4 "]
    assert got[-1]["details"]["finish_reason"] == "stop_sequence"


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
def test_a_failed_generation(url: str, worker: FakeWorker, route: str) -> None:
    answer = http.post(url + route, json=body(inputs="fail now"))
    error = {"error": "Request failed during generation: the cat is not at home", "error_type": "generation"}
    if route == "/generate":
        assert answer.status_code == 424 and answer.json() == error
    else:
        assert answer.status_code == 200 and events(answer) == [error]


def test_a_stream_reports_validation_errors_inside(url: str, worker: FakeWorker) -> None:
    bad = body(temperature=0.0)
    sentence = "Input validation error: `temperature` must be strictly positive"
    answer = http.post(url + "/generate", json=bad)
    assert answer.status_code == 422 and answer.json() == {"error": sentence, "error_type": "validation"}
    inside = http.post(url + "/generate_stream", json=bad)
    assert inside.status_code == 200 and events(inside) == [answer.json()]
    several = body(best_of=2, do_sample=True)
    (refused,) = events(http.post(url + "/generate_stream", json=several))
    assert refused["error"].endswith("`best_of` != 1 is not supported when streaming tokens")


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
def test_several_texts_are_refused_where_one_is_the_answer(url: str, worker: FakeWorker, route: str) -> None:
    answer = http.post(url + route, json=body(n=2))
    (error,) = events(answer) if route == "/generate_stream" else [answer.json()]
    assert error["error"].endswith("use /jobs") and error["error_type"] == "validation"


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
def test_somebody_cancels_or_deletes_it(url: str, worker: FakeWorker, route: str) -> None:
    with Post(url, route, body(1900)) as waiting:
        job_id = until(lambda: next(iter(worker.running), None), 30, "the job")
        assert http.post(f"{url}/jobs/{job_id}/cancel").status_code == 200
        answer = waiting.read()
    whole = b'{"error":"Incomplete generation","error_type":"incomplete_generation"}'
    streamed = b'{"error":"Incomplete generation stream","error_type":"incomplete_generation_stream"}'
    assert (whole if route == "/generate" else b"data: %b\n\n" % streamed) in answer


@pytest.mark.parametrize("phase", ["queued", "running"])
@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
def test_a_client_that_leaves_cancels_what_was_bound_to_it(
    url: str, worker: FakeWorker, route: str, phase: str
) -> None:
    if phase == "queued":
        worker.hold()
    with Post(url, route, body(1900)):
        if phase == "queued":
            job_id = until(lambda: next(iter(worker.queue.peek()), None), 30, "the job")
        else:
            job_id = until(lambda: next(iter(worker.running), None), 30, "the job")
    state = until(lambda: (r := worker.ledger.record(job_id)) and r.terminal and r.state, 30, "the cancel")
    assert state == "cancelled"
    until(lambda: worker.queue.size() == 0 and not worker.running, 30, "an idle worker")
