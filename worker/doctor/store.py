"""Redis: whether it answers, and whether it would keep what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from redis.exceptions import NoPermissionError, RedisError

from wire.redis_url import client, public
from worker.doctor.finding import Finding, error, ok, warning
from worker.eviction import SAFE

PATIENCE = 5.0
"""Seconds for each answer."""
SET = "Set it in its configuration"


def redis(url: str) -> Iterator[Finding]:
    """What is to be known of the Redis that REDIS_URL names."""
    asked: Any = client(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    with closing(asked):
        try:
            asked.ping()
        except RedisError as refused:
            text = f"{public(url)} does not answer: {refused}."
            yield error("redis", text, "Start it, or mend REDIS_URL.")
            return
        try:
            server, memory = asked.info("server"), asked.info("memory")
            persistence = asked.info("persistence")
        except NoPermissionError:
            yield warning("redis", f"{public(url)} tells this user no settings.", "Allow it INFO.")
            return
        except RedisError as refused:
            yield error("redis", f"{public(url)} does not tell its state: {refused}.", "Look at its log.")
            return
    yield ok("redis", f"{public(url)} answers: {_version(server)}, mode {server.get('redis_mode', '?')}.")
    yield from _memory(memory)
    yield _append_only(persistence)


def _version(server: dict[str, Any]) -> str:
    if "valkey_version" in server:
        return f"Valkey {server['valkey_version']}"
    return f"Redis {server.get('redis_version', '?')}"


def _memory(memory: dict[str, Any]) -> Iterator[Finding]:
    limit, policy = memory.get("maxmemory", 0), str(memory.get("maxmemory_policy", SAFE))
    if policy != SAFE:
        text = f"maxmemory-policy is {policy}: a full Redis throws away jobs, tokens and leases."
        yield warning("redis", text, f"{SET}: maxmemory-policy {SAFE}.")
    if not limit:
        text = "maxmemory is not set: a full queue takes the machine's memory, not the clients' patience."
        yield warning("redis", text, f"{SET}; docs/reliability.md says what a job costs.")
    elif policy == SAFE:
        yield ok("redis", f"maxmemory is {limit >> 20} MiB, and nothing is evicted.")


def _append_only(persistence: dict[str, Any]) -> Finding:
    if persistence.get("aof_enabled"):
        return ok("redis", "appendonly is on.")
    text = "appendonly is off: what was accepted is lost when Redis ends."
    return warning("redis", text, f"{SET}: appendonly yes.")
