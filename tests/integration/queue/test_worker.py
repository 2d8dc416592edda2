"""The queue under a real Celery worker: who may send, in which order it is taken, what an ack leaves."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from tests.integration.queue.fleet import QUEUE, Fleet, done, send, until
from wire.transport import PRIORITY_HEADER


@pytest.mark.parametrize("ours", [True, False], ids=["sagrada", "stock"])
@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_any_producer_gets_its_result(fleet: Fleet, ours: bool, serializer: str) -> None:
    fleet.start()
    app = fleet.producer(ours, task_serializer=serializer)
    results = send(app, 5)
    assert [result.get(timeout=30) for result in results] == [0, 1, 2, 3, 4]
    until(fleet.settled)
    assert fleet.runs([result.id for result in results]) == [1] * 5


def test_retry_countdown_revoke_and_inspect(fleet: Fleet) -> None:
    fleet.start()
    app = fleet.producer()
    retried = app.send_task("flaky")
    later = app.send_task("job", kwargs={"mark": "later"}, countdown=0.5)
    assert retried.get(timeout=30) == 2
    assert later.get(timeout=30) == "later"
    long = send(app, 3, s=60)
    until(lambda: fleet.runs([result.id for result in long]) == [1, 1, 1])
    inspect = app.control.inspect(timeout=5)
    assert [len(jobs) for jobs in inspect.active().values()] == [3]
    app.control.revoke(long[0].id, terminate=True)
    with pytest.raises(TaskRevokedError):
        long[0].get(timeout=30)
    for result in long[1:]:
        app.control.revoke(result.id, terminate=True)
    until(fleet.settled)


def test_the_most_urgent_is_taken_first(fleet: Fleet) -> None:
    app = fleet.producer()
    given: list[dict[str, Any]] = [
        {"priority": 9},
        {},
        {"headers": {PRIORITY_HEADER: 0}},
        {"priority": 7},
        {"priority": 1},
    ]
    sent = [app.send_task("job", **options).id for options in given]
    first = [sent[i] for i in (2, 4, 1, 3, 0)]
    assert fleet.queue.peek() == first
    assert [fleet.queue.position(task) for task in first] == [1, 2, 3, 4, 5]
    fleet.start(slots="1")
    until(fleet.settled)
    assert fleet.runs(sent) == [1] * 5


def test_a_worker_takes_no_more_than_it_has_room_for(fleet: Fleet) -> None:
    app = fleet.producer()
    results = send(app, 10, s=60)
    worker = fleet.start(slots="4", drain="0.2")
    until(lambda: sum(fleet.runs([result.id for result in results])) == 4)
    assert sum(fleet.unacked().values()) == 4
    assert fleet.queue.size() == 6
    worker.stop()
    assert fleet.queue.size() == 10, "what the drain could not finish returns at once"
    assert fleet.unacked() == {}
    assert fleet.live() == []


def test_a_warm_shutdown_finishes_what_runs(fleet: Fleet) -> None:
    app = fleet.producer()
    worker = fleet.start(slots="4")
    results = send(app, 10, s=1.5)
    until(lambda: sum(fleet.runs([result.id for result in results])) == 4)
    worker.signal(signal.SIGTERM)
    assert worker.stop() == 0
    assert len(list(done(results))) == 4
    assert fleet.queue.size() == 6
    assert (fleet.unacked(), fleet.dead(), fleet.live()) == ({}, [], [])


def test_two_queues_on_one_worker(fleet: Fleet) -> None:
    app = fleet.producer()
    other = "sagrada.other"
    results = [app.send_task("job", kwargs={"mark": i}, queue=(QUEUE, other)[i % 2]) for i in range(12)]
    fleet.start(queues=(QUEUE, other), slots="2")
    assert [result.get(timeout=30) for result in results] == list(range(12))
    until(fleet.settled)


def test_plain_jobs_have_a_position_while_nobody_has_room(fleet: Fleet) -> None:
    fleet.start(slots="1", drain="0.1")
    app, stock = fleet.producer(), fleet.producer(ours=False)
    send(app, 1, s=60)
    until(lambda: sum(fleet.unacked().values()) == 1)
    tasks = [result.id for result in send(stock, 3)]
    until(lambda: [fleet.queue.position(task) for task in tasks] == [1, 2, 3])


def test_bad_messages_are_set_aside(fleet: Fleet) -> None:
    fleet.start()
    for junk in ("nonsense", "[]", "{}", '{"properties": {"delivery_tag": "a\\nb"}}'):
        fleet.redis.lpush(QUEUE, junk)
    # Well formed for the script, but no message for kombu: its body is no base64.
    bad = '{"body": "x", "headers": {"id": "i"}, "properties": {"delivery_tag": "t", "body_encoding": "base64"}}'
    fleet.redis.lpush(QUEUE, bad)
    until(lambda: fleet.redis.llen(f"sagrada:q:{QUEUE}:bad") == 5)
    assert fleet.producer(ours=False).send_task("job", kwargs={"mark": 7}).get(timeout=30) == 7
    until(fleet.settled)
