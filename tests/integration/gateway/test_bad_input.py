"""Bad input is answered with a status and a sentence, never dropped, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from tests.integration.gateway.client import http, submit
from tests.integration.gateway.fake import FakeWorker

JSON = {"Content-Type": "application/json"}
ROUTES = ["/jobs", "/generate", "/generate_stream"]


def error_of(answer: Any) -> str:
    body = answer.json()
    assert sorted(body) == ["error", "error_type"] and len(body["error"]) > 10, body
    return str(body["error_type"])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b'{"inputs": "a"} x', 400, "malformed_json"),
        (b'{"inputs": "\xff"}', 400, "malformed_json"),
        (b'{"inputs": "a", "parameters": {"grammar": ' + b"[" * 100_000, 400, "malformed_json"),
        (b"null", 422, "validation"),
        (b"[]", 422, "validation"),
        (b"{}", 422, "validation"),
        (b'{"inputs": 5}', 422, "validation"),
        (b'{"inputs": "a", "parameters": []}', 422, "validation"),
        (b'{"inputs": "a", "parameters": {"max_new_tokens": -1}}', 422, "validation"),
        (b'{"inputs": "a", "parameters": {"max_new_tokens": "5"}}', 422, "validation"),
        (b'{"inputs": "a", "parameters": {"seed": 1.5}}', 422, "validation"),
        (b'{"inputs": "a", "priority": "high"}', 422, "validation"),
        (b'{"inputs": "a", "model": 3}', 422, "validation"),
        (b'{"inputs": "a", "model": "nobody"}', 404, "model_not_found"),
    ],
)
def test_what_no_route_can_read(
    url: str, worker: FakeWorker, route: str, content: bytes, status: int, kind: str
) -> None:
    worker.hold()
    answer = http.post(url + route, content=content, headers=JSON)
    assert (answer.status_code, error_of(answer)) == (status, kind)
    assert worker.queue.size() == 0 and not list(worker.redis.scan_iter("sagrada:{*"))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"inputs": ""}, "`inputs` cannot be empty"),
        ({"inputs": "cat " * 65}, "`inputs` must have less than 64 tokens. Given: 65"),
        ({"inputs": "x" * (64 * 32 + 1)}, "`inputs` must have less than 64 tokens"),
        ({"inputs": "cat", "parameters": {"max_new_tokens": 2048}}, "must be <= 2048. Given: 1 `inputs`"),
        ({"inputs": "cat", "parameters": {"top_p": 1.0}}, "`top_p`"),
        ({"inputs": "cat", "parameters": {"best_of": 3, "do_sample": True}}, "`best_of`"),
        ({"inputs": "cat", "parameters": {"grammar": {"type": "regex", "value": 3}}}, "grammar is not valid"),
        ({"inputs": "cat", "priority": 10}, "`priority`"),
        ({"inputs": "cat", "ttl": 0}, "`ttl`"),
    ],
)
def test_what_is_refused_names_the_parameter(
    url: str, worker: FakeWorker, fields: dict[str, Any], word: str
) -> None:
    worker.hold()
    for route in ("/jobs", "/generate"):
        answer = http.post(url + route, json=fields)
        assert answer.status_code == 422 and error_of(answer) == "validation"
        assert (
            answer.json()["error"].startswith("Input validation error: ") and word in answer.json()["error"]
        )
    inside = http.post(url + "/generate_stream", json=fields)
    assert inside.status_code == 200 and word in json.loads(inside.text.removeprefix("data: "))["error"]
    assert worker.queue.size() == 0


def test_lone_surrogates_are_answered(url: str, worker: FakeWorker) -> None:
    for route in ROUTES:
        answer = http.post(url + route, content=b'{"inputs": "\\ud800"}', headers=JSON)
        assert 400 <= answer.status_code < 500 and error_of(answer)


def test_a_long_prompt_within_the_bytes_is_counted_by_the_worker(url: str, worker: FakeWorker) -> None:
    worker.hold()
    job_id = submit(url, inputs="é " * 900).json()["error"]
    assert "tokens" in job_id


def test_the_wrong_content_type(url: str, worker: FakeWorker) -> None:
    for route in ROUTES:
        for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = http.post(
                url + route, content=b'{"inputs": "a"}', headers={"Content-Type": content_type}
            )
            assert (answer.status_code, error_of(answer)) == (415, "unsupported_media_type")


def test_a_body_that_is_too_large(url: str, worker: FakeWorker) -> None:
    large = b'{"inputs": "' + b"a" * 300_000 + b'"}'
    for route in ROUTES:
        assert http.post(url + route, content=large, headers=JSON).status_code == 413
        chunked = http.post(url + route, content=iter([large]), headers=JSON)
        assert chunked.status_code == 413 and error_of(chunked) == "request_entity_too_large"


def test_unknown_jobs_routes_and_methods(url: str, worker: FakeWorker) -> None:
    for method, path in [
        ("GET", "/jobs/none"),
        ("GET", "/jobs/none?wait=1"),
        ("GET", "/jobs/none/stream"),
        ("POST", "/jobs/none/cancel"),
        ("DELETE", "/jobs/none"),
        ("GET", "/jobs/%7B%7D%00%ff"),
    ]:
        answer = http.request(method, url + path)
        assert (answer.status_code, error_of(answer)) == (404, "job_not_found"), (method, path)
    missing = http.get(url + "/no/such/route")
    assert (missing.status_code, error_of(missing)) == (404, "not_found")
    wrong = http.put(url + "/jobs", json={})
    assert (wrong.status_code, error_of(wrong)) == (405, "method_not_allowed") and "POST" in wrong.headers[
        "allow"
    ]


@pytest.mark.parametrize("bad", [{"Last-Event-ID": "soon"}, {"Last-Event-ID": "1.5"}])
def test_an_event_id_that_is_no_number(url: str, worker: FakeWorker, bad: dict[str, str]) -> None:
    worker.hold()
    job_id = submit(url).json()["id"]
    answer = http.get(f"{url}/jobs/{job_id}/stream", headers=bad)
    assert (answer.status_code, error_of(answer)) == (422, "validation")
    answer = http.get(f"{url}/jobs/{job_id}/stream?starting_after=x")
    assert (answer.status_code, error_of(answer)) == (422, "validation")


def test_a_bad_idempotency_key(url: str, worker: FakeWorker) -> None:
    for key in ("", "k" * 256):
        assert error_of(submit(url, headers={"Idempotency-Key": key})) == "validation"


def test_garbage_on_the_socket_hurts_nobody(url: str, worker: FakeWorker) -> None:
    host, port = url.removeprefix("http://").split(":")
    for garbage in (b"\x16\x03\x01\x02", b"GET\r\n\r\n", b"POST /jobs HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=30) as sock:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    assert http.get(url + "/livez").status_code == 200


class TestModels:
    def test_loading_and_failed_models_say_so(self, url: str, worker: FakeWorker) -> None:
        worker.state, worker.progress = "loading", 0.25
        self.published(worker)
        for answer in (submit(url), submit(url, model="fake"), http.get(url + "/readyz")):
            assert answer.status_code == 503 and error_of(answer) == "model_unavailable"
            assert "25%" in answer.json()["error"] and int(answer.headers["retry-after"]) > 0
        health = http.get(url + "/health")
        assert health.status_code == 503 and error_of(health) == "healthcheck"
        info = http.get(url + "/info").json()
        assert info["workers"][0]["state"] == "loading" and info["workers"][0]["progress"] == 0.25

        worker.state, worker.error = "failed", "the folder has no weights"
        self.published(worker)
        assert "the folder has no weights" in submit(url).json()["error"]
        worker.state = "draining"
        self.published(worker)
        assert "draining" in submit(url).json()["error"]

        worker.state = "serving"
        self.published(worker)
        assert submit(url).status_code == 202
        health = http.get(url + "/health")
        assert health.status_code == 200 and not health.content

    def test_a_model_whose_worker_has_gone_is_unavailable_not_unknown(
        self, url: str, worker: FakeWorker
    ) -> None:
        self.published(worker)
        assert submit(url, model="fake").status_code == 202
        worker.publish = lambda: None  # type: ignore[method-assign]
        worker.registry.remove(worker.boot)
        self.wait_for_snapshot()
        answer = submit(url, model="fake")
        assert answer.status_code == 503 and "gone" in answer.json()["error"]
        assert submit(url).status_code == 503

    @staticmethod
    def wait_for_snapshot() -> None:
        time.sleep(1.2)  # a snapshot of the registry is good for a second

    def published(self, worker: FakeWorker) -> None:
        worker.publish()
        self.wait_for_snapshot()
