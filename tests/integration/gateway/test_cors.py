"""Pages of other origins."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from sagrada.embedded import EmbeddedServer
from tests.integration.gateway.client import http, submit
from tests.integration.gateway.conftest import GatewayProcess, sees_worker
from tests.integration.gateway.fake import FakeWorker

PAGE = "https://page.example"


def preflight(url: str, path: str, method: str = "POST", origin: str = PAGE) -> httpx.Response:
    asked = {
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, x-stainless-os",
    }
    return http.options(url + path, headers={"Origin": origin, **asked})


def words(answer: httpx.Response, name: str) -> set[str]:
    return {word.strip().lower() for word in answer.headers[name].split(",")}


@pytest.fixture(scope="session")
def choosy(
    redis_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    log = tmp_path_factory.mktemp("choosy") / "gateway.log"
    origins = f"{PAGE}, http://localhost:5173"
    with GatewayProcess(redis_server.url, log, CORS_ALLOW_ORIGIN=origins, AUTH="keys") as process:
        yield process


@pytest.mark.parametrize("path", ["/jobs", "/jobs/x", "/generate", "/info", "/no/such/route"])
def test_a_preflight_needs_no_key(choosy: GatewayProcess, url: str, worker: FakeWorker, path: str) -> None:
    for gateway in (url, sees_worker(choosy)):
        answer = preflight(gateway, path)
        assert answer.status_code == 204 and not answer.content
        assert words(answer, "access-control-allow-methods") == {"get", "post", "delete", "options"}
        needed = {"authorization", "content-type", "idempotency-key", "last-event-id", "prefer"}
        assert words(answer, "access-control-allow-headers") == needed | {"*"}
        assert int(answer.headers["access-control-max-age"]) > 0
        assert "access-control-allow-credentials" not in answer.headers


def test_any_page_may_call_and_read_every_header(url: str, worker: FakeWorker) -> None:
    page = {"Origin": PAGE}
    body = {"inputs": "the cat", "parameters": {"max_new_tokens": 2}}
    job = submit(url, 2, headers=page)
    for answer in (
        job,
        http.get(f"{url}{job.headers['location']}/stream", headers=page),
        http.get(f"{url}/jobs/none", headers=page),
        http.post(url + "/generate", json=body, headers=page),
        http.post(url + "/generate_stream", json=body, headers=page),
        http.post(url + "/generate", content=b"{", headers=page | {"Content-Type": "application/json"}),
        http.put(url + "/jobs", headers=page),
        http.get(url + "/info"),
    ):
        assert answer.headers["access-control-allow-origin"] == "*", answer.request.url
        assert answer.headers["access-control-expose-headers"] == "*"
        assert "vary" not in answer.headers and len(answer.headers.get_list("content-type")) == 1


def test_other_pages_may_be_kept_out(choosy: GatewayProcess, worker: FakeWorker) -> None:
    url = sees_worker(choosy)
    for origin in (PAGE, "http://localhost:5173"):
        for answer in (
            preflight(url, "/jobs", origin=origin),
            http.get(url + "/info", headers={"Origin": origin}),
        ):
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["vary"] == "Origin", "a cache must not give it to another"
    for origin in ("https://other.example", PAGE + ".evil", PAGE.upper(), "null", ""):
        for answer in (
            preflight(url, "/jobs", origin=origin),
            http.get(url + "/info", headers={"Origin": origin}),
        ):
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "Origin"
