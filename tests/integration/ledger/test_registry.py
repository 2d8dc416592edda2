"""The registry on a real Redis."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from redis import Redis

from tests.support.processes import until
from wire.keys import WORKERS, blob_key, worker_key
from wire.registry import BLOB_TTL, Registry, WorkerInfo


def info(boot: str, **fields: Any) -> WorkerInfo:
    return WorkerInfo(boot=boot, name=f"w@{boot}", model="m", queue="sagrada.m", state="serving", **fields)


@pytest.fixture
def registry(redis: Redis) -> Registry:
    return Registry(redis)


def test_what_is_published_is_listed_by_boot(registry: Registry) -> None:
    entries = [info("a", counters={"tokens": 3.0}, eos_ids=(1, 2)), info("b", slots=4)]
    for entry in reversed(entries):
        registry.publish(entry, ttl=60)
    assert registry.list() == entries
    registry.publish(info("a", free=9), ttl=60)
    assert [entry.free for entry in registry.list()] == [9, 0]


def test_an_entry_that_is_not_renewed_goes_and_leaves_the_index(registry: Registry, redis: Redis) -> None:
    client: Any = redis
    registry.publish(info("short"), ttl=0.001)
    registry.publish(info("long"), ttl=60)
    until(lambda: [entry.boot for entry in registry.list()] == ["long"])
    until(lambda: registry.list() and client.zrange(WORKERS, 0, -1) == [b"long"])


def test_a_removed_boot_is_gone_at_once(registry: Registry, redis: Redis) -> None:
    client: Any = redis
    registry.publish(info("a"), ttl=60)
    registry.remove("a")
    assert registry.list() == []
    assert client.keys("*") == []


def test_entries_of_a_newer_sagrada_do_no_harm(registry: Registry, redis: Redis) -> None:
    client: Any = redis
    registry.publish(info("a"), ttl=60)
    wider = {**msgspec.to_builtins(info("b")), "invented": {"x": 1}}
    strange = {**msgspec.to_builtins(info("c")), "state": "meditating"}
    for boot, entry in (("b", wider), ("c", strange)):
        registry.publish(info(boot), ttl=60)
        client.hset(worker_key(boot), "info", msgspec.msgpack.encode(entry))
    assert [entry.boot for entry in registry.list()] == ["a", "b"]


def test_a_blob_is_kept_by_its_content(registry: Registry, redis: Redis) -> None:
    client: Any = redis
    files = {"tokenizer.json": b"{}", "a": bytes(range(256))}
    digest = registry.put_blob(files)
    assert registry.put_blob(dict(reversed(files.items()))) == digest
    assert registry.get_blob(digest) == files
    assert 0 < client.ttl(blob_key(digest)) <= BLOB_TTL
    client.expire(blob_key(digest), 5)
    assert registry.touch_blob(digest)
    assert client.ttl(blob_key(digest)) > 5
    client.set(blob_key(digest), b"something else")
    assert registry.get_blob(digest) is None
    client.delete(blob_key(digest))
    assert registry.get_blob(digest) is None
    assert not registry.touch_blob(digest)
