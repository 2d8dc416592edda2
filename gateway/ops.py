"""For operators and load balancers: is it alive, is it ready, how is it doing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal, get_args

import msgspec
import redis
from flask import Blueprint, Response, request

from gateway import errors
from gateway.fleet import reason
from gateway.metrics import CONTENT_TYPE, Sample, counted, family
from gateway.service import LEAVING, Gateway
from gateway.stream import JSON
from wire.errors import ModelUnavailable
from wire.queue import TaskQueue
from wire.registry import WorkerInfo, WorkerState
from wire.totals import read

STATES: tuple[WorkerState, ...] = get_args(WorkerState)

Gauge = tuple[str, Callable[[WorkerInfo], float]]

GAUGES: dict[str, Gauge] = {
    "tgi_batch_current_size": ("Sequences that run now.", lambda w: w.running),
    "tgi_batch_current_max_tokens": (
        "Tokens that they may come to, prompts included.",
        lambda w: w.max_tokens,
    ),
    "sagrada_slots": ("Sequences that a worker runs at once.", lambda w: w.slots),
    "sagrada_slots_running": ("Sequences that run now.", lambda w: w.running),
    "sagrada_unlogged_most": (
        "Tokens of one job that its log had not taken yet, at most since the worker began.",
        lambda w: w.most_unlogged,
    ),
    "sagrada_kv_blocks": ("KV blocks of a worker.", lambda w: w.kv_blocks),
    "sagrada_kv_blocks_free": ("KV blocks that are free.", lambda w: w.kv_free),
    "sagrada_loading_progress": (
        "Progress of the stage that a loading worker is in, 0 to 1.",
        lambda w: w.progress,
    ),
}


class Alive(msgspec.Struct, frozen=True):
    """The gateway answers."""

    status: Literal["alive"] = "alive"


class Ready(msgspec.Struct, frozen=True):
    """A model is served."""

    models: list[str]
    """Those that are served now."""
    status: Literal["ready"] = "ready"


def unready(workers: list[WorkerInfo]) -> str:
    """Why no model is served; empty if one is."""
    if any(w.state == "serving" for w in workers):
        return ""
    return reason(workers) if workers else "no worker is running"


def _labels(w: WorkerInfo) -> dict[str, str]:
    return {"model": w.model, "worker": w.place or w.name, "boot": w.boot}


def _workers_metrics(workers: list[WorkerInfo]) -> str:
    states = Counter({(model, state): 0 for model in {w.model for w in workers} for state in STATES})
    states.update((w.model, w.state) for w in workers)
    samples: list[Sample] = [({"model": model, "state": state}, n) for (model, state), n in states.items()]
    text = family("sagrada_workers", "gauge", "Workers by state.", samples)
    for name, (help, value) in GAUGES.items():
        text += family(name, "gauge", help, [(_labels(w), value(w)) for w in workers])
    return text


def _queue_metrics(client: redis.Redis, workers: list[WorkerInfo]) -> str:
    queues = {queue: TaskQueue(client, queue) for queue in sorted({w.queue for w in workers})}
    sizes: list[Sample] = [({"queue": name}, queue.size()) for name, queue in queues.items()]
    ages: list[Sample] = [({"queue": name}, queue.age()) for name, queue in queues.items()]
    return (
        family("tgi_queue_size", "gauge", "Jobs that wait.", sizes)
        + family("sagrada_queue_size", "gauge", "Jobs that wait.", sizes)
        + family("sagrada_queue_age_seconds", "gauge", "What has waited longest, of those taken next.", ages)
    )


def metrics(gateway: Gateway) -> str:
    """The fleet's, as Prometheus reads it: the same from every process of every gateway."""
    try:
        gateway.publish_counts()
        workers = gateway.fleet.workers()
        streams: list[Sample] = [({"process": name}, n) for name, n in gateway.streams().items()]
        text = (
            counted(read(gateway.redis))
            + _workers_metrics(workers)
            + _queue_metrics(gateway.redis, workers)
            + family("sagrada_gateway_streams", "gauge", "Open streams and waits.", streams)
        )
        up = 1
    except redis.RedisError:  # rather no counter than one that has fallen
        text, up = "", 0
    return text + family("sagrada_redis_up", "gauge", "Whether Redis answers this gateway.", [({}, up)])


def blueprint(gateway: Gateway) -> Blueprint:
    """/livez, /readyz and /metrics."""
    routes = Blueprint("ops", __name__)

    @routes.after_app_request
    def count(response: Response) -> Response:
        rule = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.url_rule else "ANY"
        gateway.counts.answered(method, rule, response.status_code, errors.noted())
        return response

    @routes.get("/livez")
    def livez() -> Response:
        return Response(msgspec.json.encode(Alive()), 200, JSON)

    @routes.get("/readyz")
    def readyz() -> Response:
        if gateway.leaving:
            raise errors.Unavailable(LEAVING)
        workers = gateway.fleet.workers()
        if why := unready(workers):
            raise ModelUnavailable(why)
        ready = Ready(sorted({w.model for w in workers if w.state == "serving"}))
        return Response(msgspec.json.encode(ready), 200, JSON)

    @routes.get("/metrics")
    def get_metrics() -> Response:
        return Response(metrics(gateway), content_type=CONTENT_TYPE)

    return routes
