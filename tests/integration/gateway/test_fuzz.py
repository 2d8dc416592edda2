"""Damaged bodies on every route that takes one: never a 5xx, never a silence, and no job is left behind."""

from __future__ import annotations

import json
import socket
from itertools import chain, islice
from typing import Any

import httpx
import jsonschema
import pytest

from gateway.openapi.operation import Operation
from gateway.openapi.routes import OPERATIONS, document
from tests.integration.gateway.client import http
from tests.integration.gateway.conftest import GatewayProcess
from tests.integration.gateway.fake import FakeWorker
from tests.support.fuzz import DAMAGES, Bad, bodies
from tests.support.processes import until
from wire.open import OpenJobs

TAKERS = [operation for operation in OPERATIONS if operation.examples]
MOST_BYTES = 200_000
"""The fixture's MAX_BODY_BYTES."""
TOLD: dict[str, Any] = json.loads(document())


def check(operation: Operation, bad: Bad, answer: httpx.Response) -> None:
    """The answer is one that the document tells of, in its shape."""
    about = f"{operation.path}: {bad.how} {bad.content[:200]!r}: {answer.status_code} {answer.text[:500]}"
    assert answer.status_code < 500, about
    told = TOLD["paths"][operation.path][operation.method]["responses"].get(str(answer.status_code))
    assert told is not None, about
    media = answer.headers["content-type"].partition(";")[0]
    assert media in told["content"], about
    if media == "application/json":
        schema = told["content"][media]["schema"] | {"components": TOLD["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert len(error if isinstance(error, str) else error["message"]) > 10, about


def nothing_is_left(worker: FakeWorker) -> bool:
    """No job waits, runs or is held to be open."""
    return not worker.running and worker.queue.size() == 0 and not OpenJobs(worker.redis).ids()


def fuzz(url: str, worker: FakeWorker, operation: Operation, seed: int, rounds: int) -> None:
    """Of each of the route's examples in turn."""
    damaged = [bodies(seed, good, MOST_BYTES) for good in operation.examples.values()]
    for bad in islice(chain.from_iterable(zip(*damaged, strict=True)), rounds):
        answer = http.request(
            operation.method, url + operation.path, content=bad.body(), headers=bad.headers, timeout=30
        )
        check(operation, bad, answer)
    until(lambda: nothing_is_left(worker), 60, "the last job's end")


@pytest.mark.parametrize("operation", TAKERS, ids=lambda operation: operation.path)
def test_damaged_bodies(gateway: GatewayProcess, brief: FakeWorker, operation: Operation) -> None:
    fuzz(gateway.url, brief, operation, seed=7, rounds=40)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operation", TAKERS, ids=lambda operation: operation.path)
def test_many_damaged_bodies(
    gateway: GatewayProcess, brief: FakeWorker, operation: Operation, seed: int
) -> None:
    fuzz(gateway.url, brief, operation, seed=100 + seed, rounds=1000)


def test_every_damage_is_done() -> None:
    """By the short test, too, over its routes together."""
    good = TAKERS[0].examples["a story"]
    done = [bad.how for bad in islice(bodies(7, good, MOST_BYTES), 40)]
    assert {*done} == {*DAMAGES}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("operation", TAKERS, ids=lambda operation: operation.path)
def test_a_client_that_leaves_within_its_body_leaves_no_job(
    url: str, worker: FakeWorker, operation: Operation, chunked: bool
) -> None:
    """Though what it has sent would do."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(next(iter(operation.examples.values()))).encode()
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) + 10}"
    head = f"POST {operation.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    sent = b"%x\r\n%b\r\n" % (len(body), body) if chunked else body
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(head.encode() + sent)
        sock.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: sock.recv(65536), b"")).startswith((b"HTTP/1.1 400", b""))
    assert nothing_is_left(worker)
