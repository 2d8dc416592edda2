"""Celery's contract: what the pool says of a task, when, and what it never says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wire.errors import JobFailed
from wire.job import Result, Usage
from worker import pool as module
from worker.app import App, QuietRequest, to_json
from worker.assignment import (
    Assignment,
    Broken,
    Completed,
    Left,
    Returned,
    Settled,
    TimedOut,
    Verdict,
    Withdrawn,
)
from worker.config import Config
from worker.pool import EnginePool
from worker.seat import Seat

RESULT = Completed(Result(text="hi", finish_reason="length", seed=1, usage=Usage.of(2, 3)))


class Process:
    """What WorkerProcess is to the pool."""

    def __init__(self, *_: Any) -> None:
        self.delivered: list[Assignment] = []
        self.dropped: list[tuple[Assignment, bool]] = []
        self.said: list[str] = []
        self.boot = SimpleNamespace(
            mark_running=lambda tag: self.said.append(f"running {tag}"),
            drop=lambda tag: self.said.append(f"drop {tag}"),
        )

    def start(self) -> None:
        self.said.append("start")

    def deliver(self, assignment: Assignment) -> None:
        self.delivered.append(assignment)

    def drop(self, assignment: Assignment, hand_over: bool) -> None:
        self.dropped.append((assignment, hand_over))

    def drain(self) -> None:
        self.said.append("drain")

    def hand_over(self) -> None:
        self.said.append("hand over")
        for assignment in self.delivered:
            assignment.settle(Left())

    def stop(self) -> None:
        self.said.append("stop")


class Request:
    """What celery.worker.request.Request is to the pool; notes what is asked of it."""

    id = "job"
    _already_revoked = _already_cancelled = False
    _message = SimpleNamespace(delivery_tag="tag")

    def __init__(self, *payload: Any) -> None:
        self._payload = payload
        self.said: list[str] = []

    def on_success(self, outcome: Any) -> None:
        self.said.append(f"done {outcome[0]} {outcome[1]}")

    def on_accepted(self, pid: int, at: float) -> None:
        self.said.append("accepted")

    def on_timeout(self, soft: bool, seconds: float) -> None:
        self.said.append(f"timeout {soft} {seconds}")

    def acknowledge(self) -> None:
        self.said.append("ack")

    def reject(self, requeue: bool) -> None:
        self.said.append(f"reject {requeue}")

    def _announce_revoked(self, reason: str, *_: Any) -> None:
        self.said.append(reason)


def trace(name: str, task_id: str, request: Any, body: Any, *_: Any) -> tuple[int, str, float]:
    """What Celery's tracer is to the pool: it sees no argument, and calls the task."""
    assert body[:2] == ((), {})
    outcome = module.outcomes[task_id]
    return (0, outcome.result.text, 0.0) if isinstance(outcome, Completed) else (1, str(outcome.error), 0.0)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> EnginePool:
    monkeypatch.setattr(module, "WorkerProcess", Process)
    monkeypatch.setattr(module, "get_event_loop", lambda: None)
    app = SimpleNamespace(config=Config(drain_timeout=0.1), seat=Seat())
    made = EnginePool(8, app=app, initargs=(app, "node"))
    made.on_start()
    return made


def apply(pool: EnginePool, request: Request, **options: Any) -> module.Handle:
    handle: module.Handle = pool.apply_async(
        trace,
        ("sagrada.generate", "job", {}),
        callback=request.on_success,
        accept_callback=request.on_accepted,
        timeout_callback=request.on_timeout,
        **options,
    )
    return handle


def process(pool: EnginePool) -> Any:
    return pool.process


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (RESULT, ["done 0 hi"]),
        (Broken(JobFailed("no")), ["done 1 no"]),
        (Withdrawn(), ["cancelled"]),
        (TimedOut(2.0), ["timeout False 2.0"]),
        (Settled(), ["ack"]),
        (Returned(), ["reject True"]),
        (Left(), []),
    ],
)
def test_each_verdict_is_said_in_celery_s_words(pool: EnginePool, verdict: Verdict, said: list[str]) -> None:
    request = Request(("hi",), {}, {})
    apply(pool, request)
    process(pool).delivered[0].settle(verdict)
    pool._finisher.stop(60)
    assert request.said == ["accepted", *said]
    assert process(pool).said[1:] == ["running tag"] + ["drop tag"] * isinstance(verdict, Left)
    assert module.outcomes == {}


def test_a_message_with_arguments_carries_its_request(pool: EnginePool) -> None:
    apply(pool, Request((), {"inputs": "hi"}, {}), timeout=9, soft_timeout=8)
    apply(pool, Request((), {}, {}))
    first, second = process(pool).delivered
    assert (first.job_id, first.body, first.hard_limit, first.soft_limit) == (
        "job",
        ((), {"inputs": "hi"}),
        9,
        8,
    )
    assert (second.body, second.hard_limit) == (None, None)


@pytest.mark.parametrize("hand_over", [True, False])
def test_terminate_stops_a_task_and_says_nothing_more(pool: EnginePool, hand_over: bool) -> None:
    request = Request((), {}, {})
    handle = apply(pool, request)
    request._already_cancelled, request._already_revoked = hand_over, not hand_over
    handle.terminate(15)
    (assignment,) = process(pool).delivered
    assert process(pool).dropped == [(assignment, hand_over)]
    assignment.settle(Left())
    pool._finisher.stop(60)
    assert request.said == ["accepted"]


def test_a_task_revoked_while_it_came_is_not_delivered(pool: EnginePool) -> None:
    request = Request((), {}, {})
    request._already_revoked = True
    apply(pool, request)
    assert process(pool).delivered == []


def test_a_drain_ends_with_handing_over_what_is_left(pool: EnginePool) -> None:
    apply(pool, Request((), {}, {}))
    pool.on_stop()
    assert process(pool).said == ["start", "running tag", "drain", "hand over", "drop tag", "stop"]


def test_what_cannot_be_told_comes_back(
    pool: EnginePool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(module, "SETTLE_PAUSE", 0.0)
    request = Request((), {}, {})
    handle = module.Handle(pool, request, trace, ("", "job", {}), broken, broken, 0.0)
    pool._finish(handle, RESULT)
    assert "could not be settled" in caplog.text
    assert request.said == ["reject True"]
    assert module.outcomes == {}


def test_the_task_returns_or_raises_what_is_known_and_hides_arguments() -> None:
    app = App(Config())
    task = app.tasks["sagrada.generate"]
    task.push_request(id="job")
    module.outcomes["job"] = RESULT
    assert task.run() == to_json(RESULT)
    module.outcomes["job"] = Broken(JobFailed("no"))
    with pytest.raises(JobFailed, match="no"):
        task.run()
    task.pop_request()
    del module.outcomes["job"]
    assert QuietRequest.__name__ in task.Request
    assert app.conf.result_serializer == "json"
    assert set(app.conf.accept_content) == {"json", "msgpack"}
