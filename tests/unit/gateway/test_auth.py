"""Who comes in, without a Redis: what is decided before it is asked, and what is said when it is away."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app import create_app
from gateway.auth import Caller, bearer, is_open
from gateway.config import Config

AWAY = "redis://127.0.0.1:1/0"
KEY = f"sk-{'a' * 12}-{'b' * 48}"


def asks(config: Config, method: str, path: str, key: str = "") -> Any:
    client = create_app(config)[0].test_client()
    return client.open(path, method=method, headers={"Authorization": f"Bearer {key}"} if key else {})


@pytest.mark.parametrize(
    ("config", "key", "status"),
    [
        (Config(redis_url=AWAY, auth="keys"), "", 401),
        (Config(redis_url=AWAY, auth="keys"), "no-key-of-ours", 401),
        (Config(redis_url=AWAY, auth="keys"), KEY, 503),
        (Config(redis_url=AWAY, api_key="one"), "", 401),
        (Config(redis_url=AWAY, api_key="one"), "One", 401),
        (Config(redis_url=AWAY, api_key="one"), KEY, 503),
        (Config(redis_url=AWAY, api_key="one"), "one", 503),  # it came in, and its job cannot be looked up
        (Config(redis_url=AWAY), "", 503),
    ],
)
def test_what_can_be_said_while_redis_is_away(config: Config, key: str, status: int) -> None:
    answer = asks(config, "GET", "/jobs/none", key)
    assert answer.status_code == status
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert "b" * 48 not in answer.text and answer.json["error_type"] in ("unauthorized", "unavailable")


def test_what_is_no_address_is_not_found_whoever_asks() -> None:
    closed = Config(redis_url=AWAY, auth="keys")
    assert asks(closed, "GET", "/no/such/route").status_code == 404
    assert asks(closed, "PUT", "/jobs").status_code == 405
    assert asks(closed, "GET", "/livez", "no-key-of-ours").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_changed_without_a_key(method: str) -> None:
    assert not any(is_open(method, rule) for rule in ("/", "/health", "/info", "/docs/x", "/v1/models"))


def test_a_new_route_is_closed() -> None:
    assert not is_open("GET", "/v1/batches") and not is_open("GET", "/jobs") and not is_open("GET", "/docsx")
    assert is_open("GET", "/docs/<path:name>") and is_open("HEAD", "/health")


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer a", "a"), ("bearer  a ", "a"), ("BEARER a b", "a b"), ("Basic a", ""), ("a", ""), ("", "")],
)
def test_the_token_of_a_header(header: str, token: str) -> None:
    assert bearer(header) == token


def test_what_a_caller_may_do() -> None:
    assert Caller().may_use("m") and not Caller().limited
    some = Caller(models=frozenset({"a"}), tokens_per_minute=1)
    assert some.may_use("a") and not some.may_use("b") and some.limited
