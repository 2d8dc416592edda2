"""The job API over real HTTP, a real Redis and a fake worker."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sagrada.client import Client
from tests.integration.gateway.client import http, job, submit
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until
from tests.support.sse import TERMINAL, follow, frames, text_of
from wire.job import choice_seed
from wire.keys import job_key, log_key, result_key


def read(
    url: str, job_id: str, query: str = "", headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """The stream from one connection, to its end."""
    with http.stream("GET", f"{url}/jobs/{job_id}/stream{query}", headers=headers, timeout=30) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        return [event for _, event in frames(response)]


def test_a_job_from_submission_to_result(url: str, worker: FakeWorker) -> None:
    worker.hold()
    answer = submit(url, 3, parameters={"seed": 7, "do_sample": True})
    accepted = answer.json()
    path = f"/jobs/{accepted['id']}"
    assert answer.status_code == 202 and answer.headers["location"] == path
    assert int(answer.headers["retry-after"]) > 0
    assert accepted["object"] == "job" and accepted["status"] == "queued" and accepted["model"] == "fake"
    assert accepted["queue_position"] == 1 and accepted["created_at"] > 1e9
    assert accepted["urls"] == {"get": path, "stream": path + "/stream", "cancel": path + "/cancel"}
    nothing_yet = ("started_at", "completed_at", "result", "usage", "error")
    assert all(accepted[name] is None for name in nothing_yet)
    assert submit(url, 3).json()["queue_position"] == 2

    worker.takes.set()
    done = job(url, accepted["id"], "?wait=30")
    assert done["status"] == "completed" and done["queue_position"] is None and done["error"] is None
    assert done["result"] == {"text": "w0 w1 w2 ", "finish_reason": "length", "seed": 7}
    assert done["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]


def test_a_job_of_several_texts(url: str, worker: FakeWorker) -> None:
    job_id = submit(url, 3, parameters={"n": 2, "seed": 7, "do_sample": True}).json()["id"]
    done = job(url, job_id, "?wait=30")
    ends = [
        {"finish_reason": "eos_token", "seed": 7, "tokens": 3},
        {"finish_reason": "eos_token", "seed": choice_seed(7, 1), "tokens": 2},
    ]
    texts = ["w0.0 w0.1 w0.2 ", "w1.0 w1.1 "]
    assert done["result"] == {
        "text": texts[0],
        "finish_reason": "eos_token",
        "seed": 7,
        "choices": [{"text": text, **end} for text, end in zip(texts, ends, strict=True)],
    }
    *tokens, last = follow(url, job_id)
    assert [text_of(tokens, choice) for choice in range(2)] == texts
    assert last["choices"] == ends and last["usage"] == done["usage"]

    with Client(url) as client:
        result = client.wait(job_id, 30).result
        assert result and [choice.text for choice in result.choices] == texts
        *_, end = client.stream(job_id)
        assert [choice.tokens for choice in end.choices] == [3, 2]


def test_the_prompt_is_in_no_message(url: str, worker: FakeWorker) -> None:
    worker.hold()
    job_id = submit(url, inputs="the mat on the mat").json()["id"]
    redis: Any = worker.redis
    keys = [key for key in redis.scan_iter() if b"q:" in key]
    stored = b"".join(b"".join(redis.hvals(k)) for k in keys if redis.type(k) == b"hash")
    assert job_id.encode() in stored and b"mat" not in stored


def test_waiting_on_submission(url: str, worker: FakeWorker) -> None:
    done = http.post(
        url + "/jobs?wait=30", json={"inputs": "the cat", "parameters": {"max_new_tokens": 3}}, timeout=40
    )
    assert done.status_code == 200 and done.json()["status"] == "completed"
    preferred = submit(url, 3, headers={"Prefer": "respond-async, wait=30"})
    assert preferred.status_code == 200 and preferred.json()["result"]["text"] == "w0 w1 w2 "

    worker.hold()
    early = http.post(url + "/jobs?wait=0.2", json={"inputs": "the cat"}, timeout=30)
    assert early.status_code == 202 and early.json()["status"] == "queued" and early.headers["location"]
    assert job(url, early.json()["id"], "?wait=0.2")["status"] == "queued"


def test_the_stream_has_every_event_with_its_id(url: str, worker: FakeWorker) -> None:
    job_id = submit(url, 20).json()["id"]
    events = follow(url, job_id)
    assert [e["seq"] for e in events] == list(range(21))
    assert events[0] == {
        "type": "token", "seq": 0, "index": 0, "id": 2, "text": "w0 ", "logprob": -0.5, "special": False, "choice": 0,
    }  # fmt: skip
    assert events[-1]["type"] == "done" and events[-1]["finish_reason"] == "length"
    assert events[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}
    assert text_of(events) == job(url, job_id)["result"]["text"]


def test_the_raw_framing(url: str, worker: FakeWorker) -> None:
    job_id = submit(url, 2).json()["id"]
    with http.stream("GET", f"{url}/jobs/{job_id}/stream", timeout=30) as response:
        raw = response.read()
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
    assert raw.startswith(b"retry: 1000\n\nid: 0\ndata: {")
    assert raw.endswith(b"}\n\n") and raw.count(b"id: ") == raw.count(b"data: ") == 3


def test_going_on_after_an_event(url: str, worker: FakeWorker) -> None:
    worker.hold()
    live = submit(url, 10).json()["id"]
    worker.pause()
    worker.takes.set()
    until(lambda: live in worker.running, 30, "the claim")
    worker.steps.set()
    assert [e["seq"] for e in read(url, live, headers={"Last-Event-ID": "3"})] == list(range(4, 11))
    # Now it has ended: the same from the log.
    assert [e["seq"] for e in read(url, live, "?starting_after=6")] == [7, 8, 9, 10]
    assert [e["seq"] for e in read(url, live)] == list(range(11))
    # A reconnecting EventSource repeats its URL; what it has seen since counts.
    both = read(url, live, "?starting_after=1", headers={"Last-Event-ID": "8"})
    assert [e["seq"] for e in both] == [9, 10]
    over = http.get(f"{url}/jobs/{live}/stream", headers={"Last-Event-ID": "10"})
    assert over.status_code == 204 and not over.content
    # Whoever had more than there is has met a Redis that lost writes, and has not heard of this end.
    assert [e["seq"] for e in read(url, live, headers={"Last-Event-ID": "999"})] == [10]


def test_a_stream_may_begin_before_the_job_is_claimed(url: str, worker: FakeWorker) -> None:
    worker.hold()
    job_id = submit(url, 4).json()["id"]
    with http.stream("GET", f"{url}/jobs/{job_id}/stream", timeout=30) as response:
        events = frames(response)
        time.sleep(0.2)
        worker.takes.set()
        assert [event["seq"] for _, event in events] == [0, 1, 2, 3, 4]


def test_a_new_attempt_is_told_without_an_id_and_repeats_nothing(url: str, worker: FakeWorker) -> None:
    job_id = submit(url, 300).json()["id"]
    with http.stream("GET", f"{url}/jobs/{job_id}/stream", timeout=60) as response:
        got: list[tuple[str | None, dict[str, Any]]] = []
        for event in frames(response):
            got.append(event)
            if len(got) in (50, 120):
                worker.resume_all()
    resumed = [(id, e) for id, e in got if e["type"] == "resumed"]
    assert [e["attempt"] for _, e in resumed] == [2, 3] and {id for id, _ in resumed} == {None}
    assert [e["seq"] for _, e in got if e["type"] != "resumed"] == list(range(301))


def test_cancelling(url: str, worker: FakeWorker) -> None:
    worker.hold()
    queued = submit(url, 50).json()["id"]
    for _ in range(2):
        answer = http.post(f"{url}/jobs/{queued}/cancel")
        assert answer.status_code == 200 and answer.json()["status"] == "cancelled"
    assert worker.queue.size() == 0
    assert [e["type"] for e in follow(url, queued)] == ["cancelled"]

    worker.takes.set()
    running = submit(url, 1900).json()["id"]
    until(lambda: running in worker.running, 30, "the claim")
    with worker.redis.pubsub() as hints:
        hints.subscribe(f"sagrada:boot:{worker.boot}")
        hints.get_message(timeout=5)
        assert http.post(f"{url}/jobs/{running}/cancel").json()["status"] == "cancelled"
        hint: Any = hints.get_message(timeout=5)
        assert hint and hint["data"].decode() == running, "the owner is told at once"
    assert follow(url, running)[-1]["type"] == "cancelled"
    until(lambda: running in worker.fenced, 30, "the fence")
    done = submit(url, 2).json()["id"]
    assert job(url, done, "?wait=30")["status"] == "completed"
    assert http.post(f"{url}/jobs/{done}/cancel").json()["status"] == "completed", "what has ended stays so"


def test_deleting(url: str, worker: FakeWorker) -> None:
    done = submit(url, 2).json()["id"]
    job(url, done, "?wait=30")
    worker.redis.set(result_key(done), b"{}")
    gone = http.delete(f"{url}/jobs/{done}")
    assert gone.status_code == 204 and not gone.content
    assert not worker.redis.exists(job_key(done), log_key(done), result_key(done))
    assert http.get(f"{url}/jobs/{done}").status_code == 404
    assert http.delete(f"{url}/jobs/{done}").status_code == 404

    live = submit(url, 1900).json()["id"]
    cancelled = http.delete(f"{url}/jobs/{live}")
    assert cancelled.status_code == 200 and cancelled.json()["status"] == "cancelled"


def test_a_failed_and_an_expired_job_say_why(url: str, worker: FakeWorker) -> None:
    failed = submit(url, inputs="the cat fail").json()["id"]
    assert follow(url, failed)[-1]["error"] == "the cat is not at home"
    shown = job(url, failed)
    assert shown["status"] == "failed" and shown["result"] is None
    assert shown["error"] == {"message": "the cat is not at home", "type": "generation"}

    worker.hold()
    late = submit(url, ttl=0.01).json()["id"]
    time.sleep(0.05)
    worker.takes.set()
    assert follow(url, late)[-1]["type"] == "expired"
    assert "deadline" in job(url, late)["error"]["message"]


class TestIdempotency:
    def test_the_same_key_and_body_are_one_job(self, url: str, worker: FakeWorker) -> None:
        worker.hold()
        key = {"Idempotency-Key": "order-1"}
        first = submit(url, headers=key)
        body = b'{ "parameters": {"max_new_tokens": 5},\n "inputs": "the cat" }'
        again = http.post(
            url + "/jobs", content=body, headers={**key, "Content-Type": "application/json; charset=utf-8"}
        )
        assert first.status_code == again.status_code == 202
        assert first.json()["id"] == again.json()["id"] and len(first.json()["id"]) == 32
        assert worker.queue.size() == 1
        other = submit(url, headers={"Idempotency-Key": "order-2"})
        assert other.json()["id"] != first.json()["id"]

        worker.takes.set()
        done = job(url, first.json()["id"], "?wait=30")
        repeated = submit(url, headers=key)
        assert repeated.status_code == 200 and repeated.json() == done

    def test_another_body_is_refused(self, url: str, worker: FakeWorker) -> None:
        key = {"Idempotency-Key": "order-3"}
        submit(url, headers=key)
        refused = submit(url, 6, headers=key)
        assert refused.status_code == 422 and refused.json()["error_type"] == "idempotency_conflict"

    def test_a_lost_message_is_put_again(self, url: str, worker: FakeWorker) -> None:
        worker.hold()
        key = {"Idempotency-Key": "order-4"}
        job_id = submit(url, headers=key).json()["id"]
        worker.queue.remove(job_id)
        assert submit(url, headers=key).json()["id"] == job_id
        assert worker.queue.position(job_id) == 1

    def test_many_at_once_are_one_job(self, url: str, worker: FakeWorker) -> None:
        key = {"Idempotency-Key": "order-5"}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: submit(url, headers=key), range(24)))
        assert len({a.json()["id"] for a in answers}) == 1
        assert {a.status_code for a in answers} <= {200, 202}


def test_priority_orders_the_queue(url: str, worker: FakeWorker) -> None:
    worker.hold()
    usual, urgent = submit(url).json()["id"], submit(url, priority=0).json()["id"]
    assert worker.queue.peek() == [urgent, usual]
    assert job(url, usual)["queue_position"] == 2


def test_the_terminal_words_are_the_streams(url: str, worker: FakeWorker) -> None:
    job_id = submit(url, 1).json()["id"]
    assert follow(url, job_id)[-1]["type"] in TERMINAL


@pytest.mark.parametrize("wait", ["-1", "61", "soon", "nan", ""])
def test_a_bad_wait_is_refused_before_there_is_a_job(url: str, worker: FakeWorker, wait: str) -> None:
    worker.hold()
    answer = http.post(f"{url}/jobs?wait={wait}", json={"inputs": "the cat"})
    assert answer.status_code == 422 and worker.queue.size() == 0
