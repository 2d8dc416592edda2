"""`sagrada keys` against a real Redis."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from sagrada.__main__ import main
from wire.apikeys import ApiKeys

Sagrada = Callable[..., Result]


@pytest.fixture
def sagrada(redis_url: str) -> Sagrada:
    def run(*args: str, **env: str) -> Result:
        settings = {"REDIS_URL": redis_url, "AUTH": "", "API_KEY": "", "COLUMNS": "160", **env}
        return CliRunner().invoke(main, ["keys", *args], env=settings)

    return run


def test_a_key_s_life(sagrada: Sagrada, redis_url: str) -> None:
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "100000"]
    made = sagrada("add", "shop [red]", "--tenant", "acme", "--models", "demo, other", *limits)
    assert made.exit_code == 0
    key, key_id = made.stdout.strip(), made.stdout.split("-")[1]
    assert made.stdout == key + "\n", "nothing but the key, for scripts"
    assert key_id in made.stderr and "not shown again" in made.stderr and "AUTH=keys" in made.stderr
    assert key not in made.stderr
    with Redis.from_url(redis_url) as redis:
        found = ApiKeys(redis).find(key)
    assert found and found[0] == key_id and found[1].models == ("demo", "other")

    plain = sagrada("add", "plain", AUTH="keys")
    assert "AUTH" not in plain.stderr
    listed = sagrada("list")
    assert listed.exit_code == 0
    rows = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert all(word in rows[key_id] for word in ("shop [red]", "acme", "demo, other", "60", "100,000"))
    assert rows[plain.stdout.split("-")[1]].split()[1:6] == ["plain", "plain", "all", "any", "any"]
    first, second = map(json.loads, sagrada("list", "--json").stdout.splitlines())
    assert (first["id"], first["tenant"], first["revoked"]) == (key_id, "acme", None) and second[
        "name"
    ] == "plain"
    for text in (listed.output, json.dumps([first, second])):
        assert key.split("-")[2] not in text and "digest" not in text

    assert "shop [red]) is revoked" in sagrada("revoke", key_id).stdout
    assert json.loads(sagrada("list", "--json").stdout.splitlines()[0])["revoked"] > 1e9
    with Redis.from_url(redis_url) as redis:
        assert ApiKeys(redis).find(key) is None


def test_no_keys(sagrada: Sagrada) -> None:
    assert "sagrada keys add NAME" in sagrada("list").stderr
    assert sagrada("list", "--json").output == ""


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("revoke", "0123"), 1, "There is no key '0123'"),
        (("add", "x" * 200), 1, "A name has 1 to 128 characters"),
        (("add", "a", "--models", ""), 1, "model's name"),
        (("add", "a", "--requests-per-minute", "0"), 2, "0 is not in the range"),
        (("add", "a", "--tokens-per-minute", "many"), 2, "not a valid integer"),
        (("list", "--redis-url", "http://x"), 2, "a Redis URL starts with"),
        (("list", "--redis-url", "redis://u:hush@127.0.0.1:1/0"), 3, "REDIS_URL"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_a_code(
    sagrada: Sagrada, args: tuple[str, ...], code: int, words: str
) -> None:
    ran = sagrada(*args)
    assert ran.exit_code == code and words in ran.output and "hush" not in ran.output
    assert "Traceback" not in ran.output
