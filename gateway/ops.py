"""For operators and load balancers: is it alive, is it ready, how is it doing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import metadata

import redis
from flask import Blueprint, Response, jsonify, request

from gateway import errors
from gateway.fleet import reason
from gateway.metrics import CONTENT_TYPE, Requests, Sample, family
from gateway.service import LEAVING, Gateway
from wire.errors import ModelUnavailable
from wire.queue import TaskQueue
from wire.registry import WorkerInfo

COUNTERS = {"compilations": "Programs built since warm-up; anything but 0 means that the plan was left."}
"""Counters that are shown even before a worker has counted anything, with their help."""

GAUGES: dict[str, tuple[str, Callable[[WorkerInfo], float]]] = {
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


def version() -> str:
    """The installed version of Sagrada."""
    try:
        return metadata.version("sagrada")
    except metadata.PackageNotFoundError:  # run from the source tree
        return "unknown"


def unready(workers: list[WorkerInfo]) -> str:
    """Why no model is served; empty if one is."""
    if any(w.state == "serving" for w in workers):
        return ""
    return reason(workers) if workers else "no worker is running"


def _labels(w: WorkerInfo) -> dict[str, str]:
    return {"model": w.model, "worker": w.name, "boot": w.boot}


def _workers_metrics(workers: list[WorkerInfo]) -> str:
    states: dict[tuple[str, str], int] = {}
    for w in workers:
        states[w.model, w.state] = states.get((w.model, w.state), 0) + 1
    samples: list[Sample] = [({"model": model, "state": state}, n) for (model, state), n in states.items()]
    text = family("sagrada_workers", "gauge", "Workers by state.", samples)
    for name, (help, value) in GAUGES.items():
        text += family(name, "gauge", help, [(_labels(w), value(w)) for w in workers])
    for counter in sorted({*COUNTERS, *(name for w in workers for name in w.counters)}):
        counts = [(_labels(w), w.counters.get(counter, 0.0)) for w in workers]
        help = COUNTERS.get(counter, f"{counter.replace('_', ' ').capitalize()}, since the worker began.")
        text += family(f"sagrada_{re.sub('[^a-zA-Z0-9_]', '_', counter)}_total", "counter", help, counts)
    return text


def _queue_metrics(client: redis.Redis, workers: list[WorkerInfo]) -> str:
    queues = sorted({w.queue for w in workers})
    sizes: list[Sample] = [({"queue": queue}, TaskQueue(client, queue).size()) for queue in queues]
    return family("sagrada_queue_size", "gauge", "Jobs that wait.", sizes)


def metrics(gateway: Gateway, requests: Requests) -> str:
    """Everything, as Prometheus reads it. The gateway's own counts are of this process."""
    process = {"process": str(os.getpid())}
    text = family(
        "sagrada_gateway_streams", "gauge", "Open streams and waits.", [(process, len(gateway.hub))]
    )
    lost = [(process, max(0, gateway.hub.connections - 1))]
    text += family("sagrada_gateway_reconnects_total", "counter", "Pub/sub connections lost.", lost)
    counts = [(process | labels, n) for labels, n in requests.samples()]
    text += family("sagrada_gateway_requests_total", "counter", "Requests by route and status.", counts)
    try:
        workers = gateway.fleet.workers()
        text += _workers_metrics(workers) + _queue_metrics(gateway.redis, workers)
        up = 1
    except redis.RedisError:
        up = 0
    return text + family("sagrada_redis_up", "gauge", "Whether Redis answers this gateway.", [({}, up)])


def blueprint(gateway: Gateway) -> Blueprint:
    """/livez, /readyz and /metrics."""
    routes = Blueprint("ops", __name__)
    requests = Requests()

    @routes.after_app_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "none"
        requests.count(f"{request.method} {route}", response.status_code)
        return response

    @routes.get("/livez")
    def livez() -> Response:
        return jsonify(status="alive")

    @routes.get("/readyz")
    def readyz() -> Response:
        if gateway.leaving:
            raise errors.Unavailable(LEAVING)
        workers = gateway.fleet.workers()
        if why := unready(workers):
            raise ModelUnavailable(why)
        return jsonify(status="ready", models=sorted({w.model for w in workers if w.state == "serving"}))

    @routes.get("/metrics")
    def get_metrics() -> Response:
        return Response(metrics(gateway, requests), content_type=CONTENT_TYPE)

    return routes
