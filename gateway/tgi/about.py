"""What TGI's /info and /health say."""

from __future__ import annotations

from typing import Any

import msgspec
import redis
from flask import Response

from gateway import errors
from gateway.fleet import first_model
from gateway.ops import unready
from gateway.service import LEAVING, Gateway
from gateway.stream import JSON
from gateway.tgi.shapes import Info
from gateway.version import version
from wire.registry import WorkerInfo


def info(gateway: Gateway, name: str | None) -> Info:
    """TGI's /info and what a queue's users want to know; of a loading model as far as it is known."""
    workers, config = gateway.fleet.visible(), gateway.config
    name = name or first_model(workers)
    known = [w for w in workers if w.model == name]
    # A model that does not serve may still be loading: then what it says so far is shown.
    w = gateway.fleet.model(name).one if not known or any(w.state == "serving" for w in known) else known[0]
    return Info(
        model_id=w.model,
        model_sha=w.revision or None,
        model_pipeline_tag="text-generation",
        max_concurrent_requests=config.max_streams,
        max_best_of=config.max_best_of,
        max_stop_sequences=config.max_stop_sequences,
        max_input_tokens=w.max_input_tokens,
        max_total_tokens=w.max_total_tokens,
        validation_workers=config.gateway_threads,
        max_client_batch_size=config.max_client_batch_size,
        router="sagrada",
        version=version(),
        queue=w.queue,
        device=w.device,
        dtype=w.dtype,
        workers=[_worker(w) for w in known],
    )


def _worker(w: WorkerInfo) -> dict[str, Any]:
    shown = ("name", "state", "stage", "progress", "error", "device", "dtype", "slots", "running", "free")
    return {field: getattr(w, field) for field in shown}


def health(gateway: Gateway) -> Response:
    """200 without a word, or 503 with the reason after TGI's one."""
    try:
        why = LEAVING if gateway.leaving else unready(gateway.fleet.workers())
    except redis.RedisError:
        why = "Redis does not answer"
    return Response(errors.body(f"unhealthy: {why}", "healthcheck"), 503, JSON) if why else Response()


def show(info: Info) -> Response:
    """As JSON."""
    return Response(msgspec.json.encode(info), 200, JSON)
