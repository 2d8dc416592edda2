"""What a key may use per minute: of all gateways together, told in every head, refused with a moment to come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from sagrada.embedded import EmbeddedServer
from tests.integration.gateway.client import http
from tests.integration.gateway.conftest import GatewayProcess, sees_worker
from tests.integration.gateway.fake import FakeWorker
from wire.apikeys import ApiKeys

LIMITS = ("requests", "tokens")


@pytest.fixture(scope="session")
def pair(
    redis_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    """Two gateways that ask for keys, the first of two processes."""
    folder = tmp_path_factory.mktemp("pair")
    with (
        GatewayProcess(redis_server.url, folder / "a.log", AUTH="keys", GATEWAY_WORKERS="2") as a,
        GatewayProcess(redis_server.url, folder / "b.log", AUTH="keys") as b,
    ):
        yield a, b


@pytest.fixture
def urls(pair: tuple[GatewayProcess, GatewayProcess], worker: FakeWorker) -> list[str]:
    return [sees_worker(gateway) for gateway in pair]


@pytest.fixture
def keys(worker: FakeWorker) -> ApiKeys:
    return ApiKeys(worker.redis)


def asks(url: str, key: str, tokens: int = 3, route: str = "/jobs", **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"inputs": "the cat", "parameters": {"max_new_tokens": tokens}}
    return http.post(url + route, json=body, headers={"Authorization": f"Bearer {key}"} | headers)


def told(answer: httpx.Response, limit: str) -> tuple[int, int, float] | None:
    """(limit, left, seconds until all is there again)."""
    names = [f"x-ratelimit-{what}-{limit}" for what in ("limit", "remaining", "reset")]
    if not any(name in answer.headers for name in names):
        return None
    most, left, reset = (answer.headers[name] for name in names)
    assert reset.endswith("s")
    return int(most), int(left), float(reset[:-1])


def test_all_gateways_count_together(urls: list[str], keys: ApiKeys, worker: FakeWorker) -> None:
    worker.hold()
    key, began = keys.add("ann", requests_per_minute=12)[1], time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: asks(urls[n % 2], key), range(30)))
    statuses = [answer.status_code for answer in answers]
    back = 1 + int((time.monotonic() - began) * 12 / 60)
    assert 12 <= statuses.count(202) <= 12 + back and set(statuses) == {202, 429}
    assert worker.queue.size() == statuses.count(202), "what was refused is no job"
    for refused in (answer for answer in answers if answer.status_code == 429):
        assert refused.json()["error_type"] == "overloaded" and "12 requests" in refused.json()["error"]
        assert 1 <= int(refused.headers["retry-after"]) <= 5
        assert (told(refused, "requests") or (0, 1))[:2] == (12, 0)
    assert asks(urls[0], keys.add("bob", requests_per_minute=12)[1]).status_code == 202


def test_tokens_are_those_of_the_prompt_and_all_that_may_follow(urls: list[str], keys: ApiKeys) -> None:
    key = keys.add("ann", tokens_per_minute=1000)[1]
    taken = told(asks(urls[0], key, 98), "tokens")
    assert (
        taken
        and taken[:2] == (1000, 900)
        and 5 < taken[2] <= 6
        and told(asks(urls[0], key, 1), "requests") is None
    )
    body = {"inputs": "the cat", "parameters": {"max_new_tokens": 199, "n": 4}}
    several = http.post(urls[1] + "/jobs", json=body, headers={"Authorization": f"Bearer {key}"})
    assert several.status_code == 202
    left = told(several, "tokens")
    assert left and 99 <= left[1] < 300, "898 and 3 more; what has come back since is not known exactly"
    refused = asks(urls[0], key, 700)
    assert refused.status_code == 429 and "702" in refused.json()["error"]
    assert 1 <= int(refused.headers["retry-after"]) <= 42


def test_what_can_never_fit_is_not_worth_waiting_for(
    urls: list[str], keys: ApiKeys, worker: FakeWorker
) -> None:
    worker.hold()
    key = keys.add("ann", tokens_per_minute=100)[1]
    refused = asks(urls[0], key, 99)
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert "101 tokens" in refused.json()["error"] and "lower `max_new_tokens`" in refused.json()["error"]
    assert "retry-after" not in refused.headers and worker.queue.size() == 0
    assert asks(urls[0], key, 98).status_code == 202, "and cost nothing"


def test_who_does_not_say_how_many_pays_a_minutes_worth_at_most(urls: list[str], keys: ApiKeys) -> None:
    """Without `max_new_tokens` a text may fill the model's context, 2048 here."""
    key = {"Authorization": f"Bearer {keys.add('ann', tokens_per_minute=100)[1]}"}
    first = http.post(urls[0] + "/jobs", json={"inputs": "the cat"}, headers=key)
    left = told(first, "tokens")
    assert first.status_code == 202 and left and left[1] < 5
    assert http.post(urls[0] + "/jobs", json={"inputs": "the cat"}, headers=key).status_code == 429


def test_a_job_that_is_found_again_costs_no_tokens(urls: list[str], keys: ApiKeys) -> None:
    key = keys.add("ann", tokens_per_minute=100)[1]
    again = {"Idempotency-Key": "order-1"}
    first = asks(urls[0], key, 98, **again)
    assert first.status_code == 202 and asks(urls[0], key, 97).status_code == 429
    for url in urls:
        repeated = asks(url, key, 98, **again)
        assert repeated.status_code in (200, 202) and repeated.json()["id"] == first.json()["id"]


@pytest.mark.parametrize("route", ["/jobs", "/jobs?wait=30", "/generate", "/generate_stream"])
def test_every_answer_says_what_is_left(
    urls: list[str], keys: ApiKeys, worker: FakeWorker, route: str
) -> None:
    """Also where the head is written long after the view."""
    key = keys.add("ann", requests_per_minute=2, tokens_per_minute=1000)[1]
    answers = [asks(urls[0], key, route=route) for _ in range(3)]
    assert [answer.status_code for answer in answers][::2] in ([200, 429], [202, 429])
    for answer in answers:
        assert all(told(answer, limit) for limit in LIMITS), dict(answer.headers)
        assert answer.headers["access-control-allow-origin"] == "*"
    free = asks(urls[0], keys.add("free")[1], route=route)
    assert not any(told(free, limit) for limit in LIMITS)


def test_looking_costs_nothing(urls: list[str], keys: ApiKeys) -> None:
    key = keys.add("ann", requests_per_minute=1)[1]
    job = asks(urls[0], key).json()["id"]
    for _ in range(3):
        answer = http.get(f"{urls[0]}/jobs/{job}", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200 and told(answer, "requests") is None
    assert asks(urls[0], key).status_code == 429


def test_a_body_of_several_prompts_is_one_request_and_costs_all_of_them(
    urls: list[str], keys: ApiKeys, worker: FakeWorker
) -> None:
    key = keys.add("ann", requests_per_minute=3, tokens_per_minute=1000)[1]
    bearer = {"Authorization": f"Bearer {key}"}

    def vertex(*tokens: int) -> httpx.Response:
        asked = [{"inputs": "the cat", "parameters": {"max_new_tokens": each}} for each in tokens]
        return http.post(urls[0] + "/vertex", json={"instances": asked}, headers=bearer)

    answer = vertex(238, 238, 238, 238)
    assert answer.status_code == 200
    requests, tokens = told(answer, "requests"), told(answer, "tokens")
    assert requests and requests[:2] == (3, 2) and tokens and tokens[:2] == (1000, 40)
    redis: Any = worker.redis
    before = len(list(redis.scan_iter("sagrada:{*}:job")))
    refused = vertex(8, 980)
    assert refused.status_code == 429 and len(list(redis.scan_iter("sagrada:{*}:job"))) == before
    tokens = told(refused, "tokens")
    assert tokens and tokens[1] >= 40, "all or nothing"


def test_an_openai_client_hears_it_in_its_own_words(
    urls: list[str], keys: ApiKeys, worker: FakeWorker
) -> None:
    key = keys.add("ann", requests_per_minute=1, tokens_per_minute=100)[1]

    def complete(tokens: int, *prompts: str) -> httpx.Response:
        body = {"prompt": prompts, "max_tokens": tokens}
        return http.post(urls[0] + "/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"})

    never = complete(49, "the cat", "the mat")
    assert never.status_code == 400 and "102 tokens" in never.json()["error"]["message"]
    assert never.json()["error"]["param"] == "max_tokens"
    granted = complete(3, "the cat", "the mat")
    requests, tokens = told(granted, "requests"), told(granted, "tokens")
    assert granted.status_code == 200 and requests and requests[1] == 0 and tokens and tokens[1] == 90
    refused = complete(3, "the cat")
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert int(refused.headers["retry-after"]) >= 1 and told(refused, "requests")
