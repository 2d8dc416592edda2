"""The store of API keys."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from tests.support.full import full
from wire import apikeys
from wire.apikeys import ApiKeyError, ApiKeys, StoreAway, opened, split
from wire.keys import API_KEYS


@pytest.fixture
def keys(redis: Redis) -> ApiKeys:
    return ApiKeys(redis)


def test_a_key_finds_what_was_said_of_it(keys: ApiKeys) -> None:
    limits = {"requests_per_minute": 5, "tokens_per_minute": 1000}
    key_id, key = keys.add("shop", tenant="acme", models=("a", "b/c"), **limits)
    found = keys.find(key)
    assert found and found[0] == key_id and found[1] == keys.get(key_id) == keys.all()[key_id]
    record = found[1]
    assert (record.name, record.tenant, record.models) == ("shop", "acme", ("a", "b/c"))
    assert (record.requests_per_minute, record.tokens_per_minute) == (5, 1000)
    assert record.created > 1e9 and record.revoked is None
    plain = keys.find(keys.add("plain")[1])
    assert plain and plain[1].tenant == "plain" and plain[1].models is None


def test_only_a_digest_is_kept(keys: ApiKeys, redis: Any) -> None:
    key = keys.add("shop")[1]
    _, secret = split(key) or ("", "")
    assert len(secret) * 4 >= 128
    (stored,) = redis.hvals(API_KEYS)
    assert (
        secret.encode() not in stored
        and bytes.fromhex(secret) not in stored
        and secret not in repr(keys.all())
    )
    assert keys.add("shop")[1] != key


def test_what_is_no_good_key_finds_nothing(keys: ApiKeys) -> None:
    key_id, key = keys.add("shop")
    other = keys.add("other")[1]
    for wrong in (
        "", "sk-", key[:-1], key + "0", key.upper(), key[:-1] + ("0" if key[-1] != "0" else "1"), " " + key, key + "\n",
        f"sk-{key_id}-{other.rpartition('-')[2]}", f"sk-{'0' * 12}-{'0' * 48}", key.removeprefix("sk-"),
    ):  # fmt: skip
        assert keys.find(wrong) is None, wrong


def test_a_revoked_key_is_no_good_and_still_known(keys: ApiKeys, redis: Redis) -> None:
    key_id, key = keys.add("shop")
    with full(redis):
        revoked = keys.revoke(key_id)
    assert keys.find(key) is None and keys.get(key_id) == revoked and revoked.revoked
    assert keys.revoke(key_id) == revoked, "once is enough"
    with pytest.raises(ApiKeyError, match="no key 'nobody'"):
        keys.revoke("nobody")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"name": ""}, "name has 1 to 128"),
        ({"name": "x" * 129}, "name has 1 to 128"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "a\x1b[2J"}, "printable"),
        ({"name": "\ud800"}, "printable"),
        ({"name": "a", "tenant": "t\0"}, "printable"),
        ({"name": "a", "tenant": "t" * 129}, "tenant"),
        ({"name": "a", "models": ()}, "1 to 100 models"),
        ({"name": "a", "models": ("",)}, "model's name"),
        ({"name": "a", "models": ("m",) * 101}, "1 to 100 models"),
        ({"name": "a", "requests_per_minute": -1}, "rate"),
        ({"name": "a", "tokens_per_minute": 10**9 + 1}, "rate"),
    ],
)
def test_what_cannot_be_kept_is_refused(keys: ApiKeys, said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ApiKeyError, match=complaint):
        keys.add(said.pop("name"), **said)
    assert keys.all() == {}


def test_there_are_so_many_keys_at_most(keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apikeys, "MOST_KEYS", 3)
    first = [keys.add(str(n))[0] for n in range(3)]
    with pytest.raises(ApiKeyError, match="revoke"):
        keys.add("one more")
    keys.revoke(first[1])
    last = keys.add("one more")[0]
    assert set(keys.all()) == {first[0], first[2], last}, "those that are revoked make room"


def test_a_redis_that_is_away_is_told_of_without_its_password() -> None:
    with (
        pytest.raises(StoreAway, match="127.0.0.1:1") as away,
        opened("redis://u:hush@127.0.0.1:1/0") as keys,
    ):
        keys.all()
    assert "hush" not in str(away.value)
