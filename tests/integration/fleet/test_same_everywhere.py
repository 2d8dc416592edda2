"""One seed, one text: over HTTP, from any Celery producer, and as a plain Redis subscriber sees it."""

from __future__ import annotations

from typing import Any

import httpx
import msgpack
import redis
from celery import Celery

from tests.support.fleet import Fleet
from tests.support.sse import follow, frames, text_of
from wire import keys

REQUEST: dict[str, Any] = {
    "inputs": "the same everywhere",
    "parameters": {"max_new_tokens": 40, "do_sample": True, "temperature": 0.8, "seed": 1234},
}


def producer(fleet: Fleet, **conf: Any) -> Celery:
    """A stranger's Celery app: it knows the broker, the task's name and the queue's."""
    app = Celery("stranger", broker=fleet.redis_url, backend=fleet.redis_url)
    app.conf.update(conf)
    return app


def via_celery(fleet: Fleet, **conf: Any) -> str:
    queue = httpx.get(fleet.url + "/info").json()["queue"]
    with producer(fleet, **conf) as app:
        result = app.send_task(keys.TASK_NAME, kwargs=REQUEST, queue=queue)
        return str(result.get(timeout=60)["text"])


def via_job(fleet: Fleet) -> str:
    job = httpx.post(fleet.url + "/jobs?wait=30", json=REQUEST, timeout=60).json()
    assert job["status"] == "completed", job
    assert text_of(follow(fleet.url, job["id"])) == job["result"]["text"]
    return str(job["result"]["text"])


def via_stream(fleet: Fleet) -> str:
    with httpx.stream("POST", fleet.url + "/generate_stream", json=REQUEST, timeout=60) as answer:
        events = [event for _, event in frames(answer)]
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"]
    return str(events[-1]["generated_text"])


def test_the_same_seed_gives_the_same_text_on_every_path(fleet: Fleet) -> None:
    texts = {
        "job": via_job(fleet),
        "generate_stream": via_stream(fleet),
        "celery defaults": via_celery(fleet),
        "celery msgpack": via_celery(fleet, task_serializer="msgpack", accept_content=["json", "msgpack"]),
    }
    assert len(set(texts.values())) == 1, texts
    assert texts["job"]


def test_a_plain_subscriber_sees_every_event_in_order_and_the_end_last(fleet: Fleet) -> None:
    app = producer(fleet)
    with (
        redis.Redis.from_url(fleet.redis_url) as client,
        client.pubsub(ignore_subscribe_messages=True) as sub,
    ):
        sub.subscribe(keys.channel("subscriber-test"))
        sub.get_message(timeout=5)
        queue = httpx.get(fleet.url + "/info").json()["queue"]
        app.send_task(keys.TASK_NAME, kwargs=REQUEST, queue=queue, task_id="subscriber-test")
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] == "token":
            message = sub.get_message(timeout=30)
            assert message is not None, f"silence after {events[-1:]}"
            events.append(msgpack.unpackb(message["data"]))
        assert sub.get_message(timeout=0.5) is None
    assert [event["seq"] for event in events] == list(range(41))
    assert events[-1]["type"] == "done"
    assert text_of(events) == via_job(fleet)
    app.close()
