"""Keys at the door. Two of them: neither reads, streams, cancels, deletes or lists what belongs to the other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from gateway.app import create_app
from gateway.auth import SELECTIVE, is_open
from gateway.config import Config
from sagrada.__main__ import main
from sagrada.client import Client, ClientError
from sagrada.embedded import EmbeddedServer
from tests.integration.gateway.client import http
from tests.integration.gateway.conftest import GatewayProcess, sees_worker
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until
from wire.apikeys import ApiKeys
from wire.job import new_job_id
from wire.keys import job_key

MASTER = "the-one-for-all"
GENERATE: dict[str, Any] = {"inputs": "the cat", "parameters": {"max_new_tokens": 3}}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 3}
COMPLETION: dict[str, Any] = {"prompt": "the cat", "max_tokens": 3}

READ = frozenset(
    f"GET {rule}"
    for rule in (
        "/", "/health", "/ping", "/livez", "/readyz", "/metrics", "/info", "/v1/models", "/v1/models/<path:name>",
        "/docs", "/docs/<name>", "/openapi.json", "/api-doc/openapi.json",
    )
)  # fmt: skip
"""Nobody's: they tell of the fleet, of no job."""

OWN = frozenset(
    {"GET /jobs/<job_id>", "GET /jobs/<job_id>/stream", "POST /jobs/<job_id>/cancel", "DELETE /jobs/<job_id>"}
)
"""One tenant's: they are about a job."""

WORK: dict[str, dict[str, Any]] = {
    "POST /jobs": GENERATE,
    "POST /": GENERATE,
    "POST /generate": GENERATE,
    "POST /generate_stream": GENERATE,
    "POST /invocations": GENERATE,
    "POST /vertex": {"instances": [GENERATE]},
    "POST /tokenize": GENERATE,
    "POST /chat_tokenize": CHAT,
    "POST /v1/chat/completions": CHAT,
    "POST /v1/completions": COMPLETION,
}
"""They take a body, and most of them make a job of it."""

ROUTES = sorted(
    f"{method} {rule.rule}"
    for rule in create_app(Config())[0].url_map.iter_rules()
    for method in rule.methods or ()
    if method not in ("HEAD", "OPTIONS")
)


@dataclass(frozen=True)
class Person:
    """Somebody with a key."""

    url: str
    key_id: str
    key: str

    def asks(
        self, route: str, job: str = "", headers: dict[str, str] | None = None, **how: Any
    ) -> httpx.Response:
        method, _, rule = route.partition(" ")
        path = (
            rule.replace("<job_id>", job).replace("<path:name>", "fake").replace("<name>", "swagger-ui.css")
        )
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return http.request(method, self.url + path, headers=key | (headers or {}), **how)

    def submits(self, **headers: str) -> str:
        answer = self.asks("POST /jobs", json=GENERATE, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["id"])


@pytest.fixture(scope="session")
def closed(
    redis_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway that asks for keys."""
    log = tmp_path_factory.mktemp("closed") / "gateway.log"
    settings = {"AUTH": "keys", "API_KEY": MASTER, "MAX_BODY_BYTES": "200000"}
    with GatewayProcess(redis_server.url, log, **settings) as process:
        yield process


@pytest.fixture
def keys(worker: FakeWorker) -> ApiKeys:
    return ApiKeys(worker.redis)


@pytest.fixture
def door(closed: GatewayProcess, worker: FakeWorker) -> str:
    return sees_worker(closed)


@pytest.fixture
def ann(door: str, keys: ApiKeys) -> Person:
    return Person(door, *keys.add("ann"))


@pytest.fixture
def bob(door: str, keys: ApiKeys) -> Person:
    return Person(door, *keys.add("bob"))


@pytest.fixture
def nobody(door: str) -> Person:
    return Person(door, "", "")


def test_every_route_has_been_thought_about() -> None:
    assert set(ROUTES) <= READ | OWN | set(WORK), "say in this file whose the new one is"
    assert all(is_open(*route.split(" ")) == (route in READ) for route in ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_closed_asks_for_a_key(nobody: Person, ann: Person, route: str) -> None:
    for key in ("", "x", ann.key[:-1] + ("0" if ann.key[-1] != "0" else "1"), f"sk-{'0' * 12}-{'0' * 48}"):
        answer = Person(nobody.url, "", key).asks(route, "none")
        if route in READ and not (key and route.split()[1] in SELECTIVE):
            assert answer.status_code != 401, "a probe that sends some key is not turned away"
            continue
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        error = answer.json()["error"]
        if route.split(" ")[1].startswith("/v1/"):
            assert error["code"] == "invalid_api_key" and error["message"]
        else:
            assert answer.json()["error_type"] == "unauthorized" and error
        assert not key or key not in answer.text


@pytest.mark.parametrize("route", sorted(OWN))
@pytest.mark.parametrize("state", ["queued", "completed"])
def test_another_s_job_is_as_good_as_none(
    ann: Person, bob: Person, worker: FakeWorker, route: str, state: str
) -> None:
    if state == "queued":
        worker.hold()
    job, none = ann.submits(), new_job_id()
    if state == "completed":
        assert ann.asks("GET /jobs/<job_id>", job, params={"wait": 30}).json()["status"] == "completed"
    before = ann.asks("GET /jobs/<job_id>", job).json()
    for stranger in (bob, Person(ann.url, "", MASTER)):
        for how in ({}, {"params": {"wait": 1}}, {"headers": {"Last-Event-ID": "0"}}):
            theirs, unknown = (stranger.asks(route, which, **how) for which in (job, none))
            assert (theirs.status_code, unknown.status_code) == (404, 404)
            assert theirs.text.replace(job, none) == unknown.text
            assert dict(theirs.headers) | {"date": ""} == dict(unknown.headers) | {"date": ""}
    assert ann.asks("GET /jobs/<job_id>", job).json() == before, "nothing has happened to it"
    worker.takes.set()
    assert ann.asks(route, job).status_code < 300


@pytest.mark.parametrize("route", sorted(set(WORK) & set(ROUTES)))
def test_what_is_made_belongs_to_who_asked(ann: Person, bob: Person, worker: FakeWorker, route: str) -> None:
    """Even where both send the same body under the same Idempotency-Key."""
    redis: Any = worker.redis
    seen: set[bytes] = set()
    for person, tenant in ((ann, b"ann"), (bob, b"bob")):
        answer = person.asks(route, json=WORK[route], headers={"Idempotency-Key": "order-1"})
        assert answer.status_code < 500, answer.text
        made = set(redis.scan_iter(match=job_key("*"))) - seen
        assert {redis.hget(key, "tenant") for key in made} <= {tenant}
        assert made or route in ("POST /tokenize", "POST /chat_tokenize") or answer.status_code >= 400
        seen |= made


def test_the_same_idempotency_key_is_another_s_of_another_tenant(ann: Person, bob: Person) -> None:
    key = {"Idempotency-Key": "order-2"}
    hers, his = ann.submits(**key), bob.submits(**key)
    assert hers != his and (ann.submits(**key), bob.submits(**key)) == (hers, his)
    # No name of a tenant and key of a request read as others do.
    other = bob.asks("POST /jobs", json=GENERATE | {"ttl": 60}, headers=key)
    assert other.status_code == 422 and other.json()["error_type"] == "idempotency_conflict"
    assert ann.asks("GET /jobs/<job_id>", his).status_code == 404


def test_keys_of_one_tenant_share_its_jobs(ann: Person, keys: ApiKeys, worker: FakeWorker) -> None:
    job = ann.submits()
    again = Person(ann.url, *keys.add("a second one", tenant="ann"))
    assert again.asks("GET /jobs/<job_id>", job, params={"wait": 30}).json()["status"] == "completed"
    assert again.submits(**{"Idempotency-Key": "x"}) == ann.submits(**{"Idempotency-Key": "x"})
    with Client(ann.url, api_key=again.key) as client:
        assert [event.seq for event in client.stream(job)] == [0, 1, 2, 3]


def test_the_one_key_sees_what_has_no_tenant(
    door: str, bob: Person, keys: ApiKeys, worker: FakeWorker
) -> None:
    master = Person(door, "", MASTER)
    job = master.submits()
    assert worker.redis.hget(job_key(job), "tenant") == b""
    plain = Person(door, *keys.add("the shop's Celery", tenant=""))
    assert plain.asks("GET /jobs/<job_id>", job).status_code == 200
    assert bob.asks("GET /jobs/<job_id>", job).status_code == 404
    for wrong in (MASTER.upper(), MASTER + "x", MASTER[:-1]):
        assert Person(door, "", wrong).asks("POST /jobs", json=GENERATE).status_code == 401
    spelled = {"authorization": f"bearer  {MASTER}"}
    assert http.post(door + "/jobs", json=GENERATE, headers=spelled).status_code == 202
    for header in (MASTER, f"Basic {MASTER}", "Bearer", f"Bearer\t{MASTER}", "Bearer \xff"):
        refused = http.post(
            door + "/jobs", json=GENERATE, headers=[(b"authorization", header.encode("latin-1"))]
        )
        assert refused.status_code == 401, header


def test_a_revoked_key_is_refused_at_once(ann: Person, keys: ApiKeys) -> None:
    ann.submits()
    keys.revoke(ann.key_id)
    refused = ann.asks("POST /jobs", json=GENERATE)
    assert refused.status_code == 401 and "revoked" in refused.json()["error"]


def test_a_key_knows_only_its_models(door: str, ann: Person, keys: ApiKeys, redis_url: str) -> None:
    with FakeWorker(redis_url, model="other") as other:
        some = Person(door, *keys.add("some", models=("other", "third")))
        until(lambda: "other" in http.get(door + "/readyz").json()["models"], 30, "the other model")
        known = some.asks("POST /jobs?wait=30", json=GENERATE)
        assert known.json()["model"] == "other" == other.model, "the default is the first it may use"
        for model in ("fake", "fourth"):
            unknown = some.asks("POST /jobs", json=GENERATE | {"model": model})
            assert (unknown.status_code, unknown.json()["error_type"]) == (404, "model_not_found")
            told = unknown.json()["error"].replace(model, "")
            assert "other" in told and "fake" not in told
            assert some.asks("GET /info", params={"model": model}).status_code == 404
        assert some.asks("GET /info").json()["model_id"] == "other"
        assert ann.asks("POST /jobs", json=GENERATE | {"model": "other"}).status_code == 202
        if "GET /v1/models" in ROUTES:
            names = [[m["id"] for m in who.asks("GET /v1/models").json()["data"]] for who in (some, ann)]
            assert names[0] == ["other"] and sorted(names[1]) == ["fake", "other"]
    none = Person(door, *keys.add("none", models=("third",)))
    refused = none.asks("POST /jobs", json=GENERATE)
    assert refused.status_code == 503 and "you may use" in refused.json()["error"]


@pytest.mark.parametrize("route", sorted(set(WORK) & set(ROUTES)))
def test_a_body_that_is_too_large(ann: Person, worker: FakeWorker, route: str) -> None:
    worker.hold()
    large = b'{"inputs": "' + b"a" * 300_000 + b'"}'
    for content in (large, iter([large])):
        answer = ann.asks(route, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, "declared or in chunks"
        error = answer.json()["error"]
        assert "MAX_BODY_BYTES" in (error["message"] if route.split(" ")[1].startswith("/v1/") else error)
    assert worker.queue.size() == 0


def test_who_is_refused_with_a_body_hears_why(nobody: Person, ann: Person) -> None:
    """Read or not, it is off the connection before the next request comes, or the connection is closed in peace."""
    for person, kind, size, status in (
        (nobody, "application/json", 190_000, 401),
        (ann, "text/plain", 190_000, 415),
        (ann, "application/json", 1_900_000, 413),
    ):
        body = b"a" * size
        for chunked, closing in itertools.product((False, True), ({}, {"Connection": "close"})):
            content = iter([body[: size // 2], body[size // 2 :]]) if chunked else body
            headers = {"Content-Type": kind, **closing}
            assert person.asks("POST /jobs", content=content, headers=headers).status_code == status


def test_the_client_and_the_command_line_bring_their_key(ann: Person, bob: Person) -> None:
    with Client(ann.url, api_key=ann.key) as client:
        job = client.generate("the cat", {"max_new_tokens": 2})
        assert job.status == "completed" and [event.last for event in client.stream(job.id)][-1]
    with Client(ann.url) as client, pytest.raises(ClientError, match="asks for an API key") as refused:
        client.submit("the cat")
    assert refused.value.status == 401

    def sagrada(*args: str, key: str = "") -> Any:
        return CliRunner().invoke(main, [*args, "--url", ann.url], env={"SAGRADA_API_KEY": key})

    made = sagrada("submit", "the cat", "--max-new-tokens", "2", key=f" {ann.key}\n")
    assert made.exit_code == 0, made.output
    assert sagrada("status", made.stdout.strip(), "--wait", "30", key=ann.key).stdout == "w0 w1 \n"
    for command in ("status", "stream", "cancel"):
        stranger = sagrada(command, made.stdout.strip(), key=bob.key)
        assert stranger.exit_code == 1 and "there is no job" in stranger.output
    for key in ("", "wrong"):
        refused = sagrada("generate", "the cat", key=key)
        assert refused.exit_code == 1 and "SAGRADA_API_KEY" in refused.output


def test_no_secret_is_in_the_log(closed: GatewayProcess, ann: Person) -> None:
    ann.submits()
    ann.asks("POST /jobs", content=b"{", headers={"Content-Type": "application/json"})
    text = closed.log.read_text()
    assert MASTER not in text and ann.key not in text and ann.key.rpartition("-")[2] not in text


def test_an_open_gateway_overlooks_keys(url: str, keys: ApiKeys) -> None:
    for key in ("", "whatever", keys.add("ann")[1]):
        job = Person(url, "", key).submits()
        assert http.get(f"{url}/jobs/{job}").status_code == 200, json.dumps(key)
