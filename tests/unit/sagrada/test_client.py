"""The client against a gateway that cuts, drops and refuses."""

from __future__ import annotations

import pytest

from sagrada.client import Client, ClientError, Unreachable
from tests.unit.sagrada.stub import Answer, Request, done, gateway, job, sse, token


def test_submit_sends_tgis_body_and_a_key() -> None:
    with gateway(lambda request: Answer(202, job(queue_position=3))) as stub, Client(stub.url) as client:
        queued = client.submit("Hello", {"max_new_tokens": 5}, model="demo", priority=1)
    assert (queued.id, queued.status, queued.queue_position, queued.ended) == ("j1", "queued", 3, False)
    (asked,) = stub.requests
    assert (asked.method, asked.path) == ("POST", "/jobs")
    assert asked.body == {
        "inputs": "Hello",
        "parameters": {"max_new_tokens": 5},
        "model": "demo",
        "priority": 1,
    }
    assert len(asked.headers["idempotency-key"]) == 32


def test_a_lost_answer_is_asked_for_again_under_the_same_key() -> None:
    answers = iter([Answer(drop=True), Answer(202, job())])
    with gateway(lambda request: next(answers)) as stub, Client(stub.url) as client:
        assert client.submit("Hello").id == "j1"
    first, second = stub.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_the_key_goes_with_every_request() -> None:
    def answers(request: Request) -> Answer:
        return Answer(text=sse(done(0))) if request.path.endswith("/stream") else Answer(body=job())

    with gateway(answers) as stub:
        with Client(stub.url, api_key="sk-1") as client:
            client.submit("Hello")
            list(client.stream("j1"))
            client.cancel("j1")
        with Client(stub.url) as client:
            client.submit("Hello")
    assert [request.headers.get("authorization") for request in stub.requests] == [*["Bearer sk-1"] * 3, None]


def test_a_refusal_is_the_gateways_sentence() -> None:
    refusal = Answer(
        429, {"error": "the queue is full", "error_type": "overloaded"}, headers={"Retry-After": "7"}
    )
    with gateway(lambda request: refusal) as stub, Client(stub.url) as client:
        with pytest.raises(ClientError, match="^the queue is full$") as refused:
            client.submit("Hello")
    assert (refused.value.status, refused.value.retry_after) == (429, 7.0)
    assert len(stub.requests) == 1


@pytest.mark.parametrize("page", ["<html>Bad Gateway</html>", "[1]", '{"detail": "no"}'])
def test_a_refusal_by_something_in_between_is_told_too(page: str) -> None:
    with gateway(lambda request: Answer(502, text=page)) as stub, Client(stub.url) as client:
        with pytest.raises(ClientError, match="answered 502"):
            client.status("j1")


def test_no_gateway_is_said_plainly() -> None:
    with gateway(lambda request: Answer()) as stub:
        pass
    with (
        Client(stub.url) as client,
        pytest.raises(Unreachable, match=r"No gateway answers at .* `sagrada up`"),
    ):
        client.status("j1")


def test_wait_polls_until_the_end() -> None:
    end = job("completed", result={"text": "hi", "finish_reason": "length", "seed": 4})
    answers = iter([Answer(202, job()), Answer(body=job("in_progress")), Answer(body=end)])
    with gateway(lambda request: next(answers)) as stub, Client(stub.url) as client:
        finished = client.generate("Hello")
    assert finished.result is not None
    assert (finished.result.text, finished.result.seed, finished.ended) == ("hi", 4, True)
    assert [request.path for request in stub.requests[1:]] == ["/jobs/j1?wait=60"] * 2


def test_wait_gives_up_when_told_to() -> None:
    with gateway(lambda request: Answer(body=job("in_progress"))) as stub, Client(stub.url) as client:
        with pytest.raises(TimeoutError, match="in_progress after 0 s"):
            client.wait("j1", timeout=0)


def test_a_cut_stream_goes_on_where_it_was_cut() -> None:
    answers = iter(
        [
            Answer(text=sse(token(0), token(1))),
            Answer(drop=True),
            Answer(503, {"error": "Redis does not answer", "error_type": "unavailable"}),
            Answer(text=sse({"type": "resumed", "attempt": 2, "seq": 2}, token(2), done(3))),
        ]
    )
    with gateway(lambda request: next(answers)) as stub, Client(stub.url) as client:
        events = list(client.stream("j1"))
    assert [(event.type, event.seq) for event in events] == [
        ("token", 0), ("token", 1), ("resumed", 2), ("token", 2), ("done", 3),
    ]  # fmt: skip
    assert [request.headers.get("last-event-id") for request in stub.requests] == [None, "1", "1", "1"]
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 3


def test_a_stream_whose_end_was_seen_is_empty() -> None:
    with gateway(lambda request: Answer(204)) as stub, Client(stub.url) as client:
        assert list(client.stream("j1", after=3)) == []
    assert stub.requests[0].headers["last-event-id"] == "3"


def test_a_stream_of_an_unknown_job_is_refused_at_once() -> None:
    refusal = Answer(404, {"error": "no such job", "error_type": "job_not_found"})
    with gateway(lambda request: refusal) as stub, Client(stub.url) as client:
        with pytest.raises(ClientError, match="no such job"):
            list(client.stream("j1"))
    assert len(stub.requests) == 1


def test_a_stream_gives_up_on_a_gateway_that_stays_away() -> None:
    with gateway(lambda request: Answer(drop=True)) as stub, Client(stub.url, patience=0) as client:
        with pytest.raises(Unreachable):
            list(client.stream("j1"))


def test_readiness_and_its_reason() -> None:
    answers = iter(
        [Answer(503, {"error": "warming up 3/12", "error_type": "model_unavailable"}), Answer(text="")]
    )
    with gateway(lambda request: next(answers)) as stub, Client(stub.url) as client:
        assert client.ready() == (False, "warming up 3/12")
        assert client.ready() == (True, "")
    assert stub.requests[0].path == "/readyz"


def test_cancel_and_delete() -> None:
    def answers(request: Request) -> Answer:
        return Answer(204) if request.method == "DELETE" else Answer(body=job("cancelled"))

    with gateway(answers) as stub, Client(stub.url) as client:
        assert client.cancel("j1").status == "cancelled"
        client.delete("j1")
    assert [(r.method, r.path) for r in stub.requests] == [
        ("POST", "/jobs/j1/cancel"),
        ("DELETE", "/jobs/j1"),
    ]
