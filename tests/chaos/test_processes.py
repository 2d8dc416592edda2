"""Whatever process dies, streams go on: no gap, no duplicate, no orphan, nothing left unacked."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from sagrada.embedded import EmbeddedServer
from tests.support.fleet import Fleet
from tests.support.processes import alive, until
from tests.support.sse import follow
from wire import keys
from wire.registry import Registry

STEP = 0.02
"""Seconds per engine step: slow enough that every job is in flight when something is killed."""
MODEL = f"scripted?step={STEP}"


def submit(fleet: Fleet, number: int, tokens: int = 150) -> str:
    """Job `number`, whose tokens depend on nothing but its number."""
    body = {
        "inputs": f"prompt {number}",
        "parameters": {"max_new_tokens": tokens, "ignore_eos": True, "do_sample": True, "seed": number},
    }
    answer = httpx.post(f"{fleet.url}/jobs", json=body, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ids_of(events: list[dict[str, Any]]) -> list[int]:
    assert events[-1]["type"] == "done", events[-1]
    return [event["id"] for event in events[:-1]]


def attempts(fleet: Fleet, jobs: list[str]) -> dict[int, int]:
    """How many jobs needed how many attempts."""
    counts: dict[int, int] = {}
    for job in jobs:
        attempt = int(fleet.redis.hget(keys.job_key(job), "attempt") or 0)
        counts[attempt] = counts.get(attempt, 0) + 1
    return counts


def nothing_left(fleet: Fleet) -> bool:
    """No unacked hash and no queued message anywhere."""
    return not list(fleet.redis.scan_iter(keys.UNACKED_PREFIX + "*")) and not fleet.redis.zcard(
        keys.queue_keys(keys.queue_of("scripted"))[0]
    )


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Any:
    """Two workers of 32 slots, a lease of 2 s."""
    with Fleet(redis_url, tmp_path, model=MODEL, workers=2, env={"SERVED_MODEL_NAME": "scripted"}) as running:
        yield running.ready()


def test_streams_survive_the_death_of_every_process(fleet: Fleet) -> None:
    """kill -9 of a worker's parent, of an engine child and of the gateway, under 20 running streams."""
    with ThreadPoolExecutor(20) as readers:
        undisturbed = [readers.submit(follow, fleet.url, submit(fleet, n)) for n in range(20)]
        expected = [ids_of(stream.result()) for stream in undisturbed]
        jobs = [submit(fleet, n) for n in range(20)]
        streams: list[Future[list[dict[str, Any]]]] = [readers.submit(follow, fleet.url, j) for j in jobs]

        time.sleep(0.5)
        victim = fleet.workers[0]
        orphan = fleet.engine_of(victim)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        until(lambda: not alive(orphan), 10, "the killed parent's engine child to end")
        fleet.workers.remove(victim)

        engine = fleet.engine_of(fleet.workers[0])
        os.kill(engine, signal.SIGKILL)
        fleet.start_worker()
        time.sleep(0.5)

        fleet.gateway.kill()
        fleet.gateway.wait()
        fleet.start_gateway()

        assert [ids_of(stream.result()) for stream in streams] == expected
    assert max(attempts(fleet, jobs)) > 1, "nothing was running when the processes were killed"
    until(lambda: nothing_left(fleet), 15, "every message to be acked")


def test_resets_of_every_connection_restart_no_job(fleet: Fleet) -> None:
    """20 times every Redis connection is cut under 64 running jobs: each job runs once."""
    jobs = [submit(fleet, n, tokens=300) for n in range(64)]
    with ThreadPoolExecutor(64) as readers:
        streams = [readers.submit(follow, fleet.url, job) for job in jobs]
        time.sleep(1)
        for _ in range(20):
            fleet.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            fleet.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            time.sleep(0.2)
        for stream in streams:
            assert len(ids_of(stream.result())) == 300
    assert attempts(fleet, jobs) == {1: 64}
    until(lambda: nothing_left(fleet), 15, "every message to be acked")


def test_redis_away_for_three_leases(tmp_path: Path) -> None:
    """Redis is stopped under load and started again: no engine restarts, nothing is lost."""
    logs = tmp_path / "logs"
    logs.mkdir()
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    try:
        with Fleet(server.url, logs, model=MODEL, workers=2, env={"SERVED_MODEL_NAME": "scripted"}) as fleet:
            fleet.ready()
            engines = {fleet.engine_of(worker) for worker in fleet.workers}
            jobs = [submit(fleet, n, tokens=200) for n in range(40)]
            with ThreadPoolExecutor(40) as readers:
                streams = [readers.submit(follow, fleet.url, job) for job in jobs]
                time.sleep(1)
                server.stop()
                time.sleep(6)
                server.start()
                assert all(len(ids_of(stream.result())) == 200 for stream in streams)
            assert {fleet.engine_of(worker) for worker in fleet.workers} == engines
            until(lambda: nothing_left(fleet), 15, "every message to be acked")
    finally:
        server.stop()


def seeds() -> list[Any]:
    """Four in `make test-all`; `make test` has the storm instead."""
    return [pytest.param(seed, marks=pytest.mark.full) for seed in range(1, 5)]


@pytest.mark.parametrize("seed", seeds())
def test_random_faults(fleet: Fleet, seed: int) -> None:
    """A seeded walk of kills, freezes and cut connections under a steady load of mixed lengths."""
    dice = random.Random(seed)
    jobs = [submit(fleet, n, tokens=dice.choice([1, 5, 40, 150])) for n in range(60)]

    def disturb() -> None:
        for _ in range(8):
            worker = dice.choice(fleet.workers)
            match dice.choice(["engine", "parent", "freeze", "cut", "gateway"]):
                case "engine":
                    os.kill(fleet.engine_of(worker), signal.SIGKILL)
                case "parent":
                    worker.kill()
                    worker.wait()
                    fleet.workers.remove(worker)
                    fleet.start_worker()
                case "freeze":  # for longer than a lease: it wakes as a zombie
                    os.kill(worker.pid, signal.SIGSTOP)
                    time.sleep(3)
                    os.kill(worker.pid, signal.SIGCONT)
                case "cut":
                    fleet.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                case _:
                    fleet.gateway.kill()
                    fleet.gateway.wait()
                    fleet.start_gateway()
            time.sleep(dice.uniform(0.2, 1.0))

    chaos = threading.Thread(target=disturb)
    with ThreadPoolExecutor(60) as readers:
        streams = [readers.submit(follow, fleet.url, job) for job in jobs]
        chaos.start()
        chaos.join()
        for stream in streams:
            ids_of(stream.result())
    until(lambda: nothing_left(fleet), 30, "every message to be acked")
    registry = Registry(redis.Redis.from_url(fleet.redis_url))
    # The last one killed may still be loading: on a busy machine the other has done all the work by then.
    until(lambda: {w.state for w in registry.list()} == {"serving"}, 60, "every worker to serve again")
