"""Frames, errors, metrics, and what the application says without any Redis."""

from __future__ import annotations

import threading
import time

import kombu.exceptions
import pytest
import redis
from flask.testing import FlaskClient

from gateway import errors
from gateway.admission import canonical
from gateway.app import create_app
from gateway.clock import Clock
from gateway.config import Config
from gateway.generation import failure
from gateway.job_object import job_object
from gateway.metrics import family
from gateway.stream import frame
from sagrada.embedded import free_port
from wire.errors import (
    IdempotencyConflict,
    JobNotFound,
    ModelNotFound,
    ModelUnavailable,
    QueueFull,
    ValidationError,
)
from wire.events import Cancelled, Expired, Failed, Resumed, Token
from wire.job import State
from wire.record import Record
from wire.request import MalformedRequest


def test_a_frame_is_one_event() -> None:
    token = Token(seq=4, index=4, id=9, text="é\r\n\n", logprob=-0.25, special=False)
    assert frame(token) == (
        b'id: 4\ndata: {"type":"token","seq":4,"index":4,"id":9,"text":"\xc3\xa9\\r\\n\\n",'
        b'"logprob":-0.25,"special":false,"choice":0}\n\n'
    )
    assert frame(Resumed(attempt=2, seq=4)) == b'data: {"type":"resumed","attempt":2,"seq":4}\n\n'


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (ValidationError("no"), 422, "validation", False),
        (MalformedRequest("no"), 400, "malformed_json", False),
        (IdempotencyConflict("no"), 422, "idempotency_conflict", False),
        (JobNotFound("no"), 404, "job_not_found", False),
        (ModelNotFound("no"), 404, "model_not_found", False),
        (ModelUnavailable("no"), 503, "model_unavailable", True),
        (QueueFull("no"), 429, "overloaded", True),
        (errors.TooManyStreams("no"), 429, "overloaded", True),
        (errors.WrongContentType("no"), 415, "unsupported_media_type", False),
        (redis.ConnectionError("no"), 503, "unavailable", True),
        (redis.TimeoutError("no"), 503, "unavailable", True),
        (kombu.exceptions.OperationalError("no"), 503, "unavailable", True),
        (ZeroDivisionError("secret"), 500, "internal", False),
    ],
)
def test_every_error_has_its_answer(error: Exception, status: int, kind: str, retry: bool) -> None:
    answer = errors.answer(error)
    assert answer.status_code == status and answer.get_json()["error_type"] == kind
    assert ("Retry-After" in answer.headers) == retry
    assert "secret" not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    ("end", "status", "kind"),
    [
        (Failed(seq=0, error="x", error_type="validation"), 422, "validation"),
        (Failed(seq=0, error="x"), 424, "generation"),
        (Failed(seq=0, error="x", error_type="incomplete_generation"), 500, "incomplete_generation"),
        (Expired(seq=0), 424, "generation"),
        (Cancelled(seq=0), 500, "incomplete_generation"),
    ],
)
def test_tgis_word_for_an_end(end: Failed | Expired | Cancelled, status: int, kind: str) -> None:
    got, body = failure(end)
    assert got == status and f'"error_type":"{kind}"'.encode() in body


@pytest.mark.parametrize("state", ["queued", "in_progress", "failed", "cancelled", "expired"])
def test_a_job_object_without_result(state: State) -> None:
    record = Record(
        model="m", digest="", queue="q", state=state, attempt=1, boot="b", stalls=0, prompt_tokens=3,
        completion_tokens=2, created=1500, started=0, finished=0, deadline=9, result=None, error="why",
        error_type="generation",
    )  # fmt: skip
    shown = job_object("j", record, None, None)
    assert shown.created_at == 1.5 and shown.started_at is None and shown.result is None
    assert (shown.usage is None) == (state in ("queued", "in_progress"))
    assert (shown.error is None) == (state not in ("failed", "expired"))


def test_a_digest_sees_content_not_form() -> None:
    assert canonical(b'{"b": [1, 2.0], "a": "x"}') == canonical(b'{"a":"\\u0078",  "b":[1,2.0]}')
    assert canonical(b'{"a": 1}') != canonical(b'{"a": 2}')


def test_metrics_are_escaped() -> None:
    text = family("m", "gauge", "Help.", [({"l": 'a"b\\c\nd'}, 1.5), ({}, 2)])
    assert text == '# HELP m Help.\n# TYPE m gauge\nm{l="a\\"b\\\\c\\nd"} 1.5\nm 2\n'
    assert family("m", "gauge", "Help.", []) == ""


def test_the_clock_calls_in_order_and_survives_faults() -> None:
    clock, called, over = Clock(), [], threading.Event()
    clock.start()
    clock.after(0.06, over.set)
    clock.after(0.04, lambda: called.append(2))
    clock.after(0.02, lambda: called.append(1))
    clock.after(0.0, lambda: called.append(1 // 0))
    clock.after(0.01, lambda: called.append(0)).cancel()
    assert over.wait(10) and called == [1, 2]
    ticks = threading.Semaphore(0)
    clock.every(0.001, ticks.release)
    assert all(ticks.acquire(timeout=10) for _ in range(3))


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    """The application on a Redis that is not there, its threads not started."""
    app, _ = create_app(Config(redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    return app.test_client()


class TestWithoutRedis:
    def test_it_lives_but_is_not_ready(self, client: FlaskClient) -> None:
        assert client.get("/livez").status_code == 200
        began = time.monotonic()
        for path in ("/readyz", "/health", "/info", "/jobs/x", "/jobs/x/stream"):
            answer = client.get(path)
            assert answer.status_code == 503 and answer.json and len(answer.json["error"]) > 10, path
        assert time.monotonic() - began < 20
        assert "sagrada_redis_up 0" in client.get("/metrics").text

    def test_requests_are_read_before_redis_is_asked(self, client: FlaskClient) -> None:
        for route in ("/jobs", "/generate", "/generate_stream"):
            assert client.post(route, data=b"{}").status_code == 415
            assert client.post(route, data=b"{", content_type="application/json").status_code == 400
            assert client.post(route, json={"inputs": 1}).status_code == 422
            assert (
                client.post(route, data=b"1" * 2_000_001, content_type="application/json").status_code == 413
            )
            assert client.post(route, json={"inputs": "x"}).status_code == 503

    def test_unknown_addresses(self, client: FlaskClient) -> None:
        assert client.get("/none").get_json() == {
            "error": "there is nothing at this address",
            "error_type": "not_found",
        }
        refused = client.get("/generate")
        assert refused.status_code == 405 and "POST" in refused.headers["Allow"]
