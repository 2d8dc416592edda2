"""A Redis that is full refuses what brings new work, and nothing of what was accepted."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from redis import Redis
from redis.exceptions import OutOfMemoryError

from tests.integration.ledger.support import Heard, claimed, completed, end_of, make_job, submitted, token
from tests.support.full import full
from wire.commands import Outcome
from wire.keys import GATEWAYS, OPEN
from wire.ledger import Ledger
from wire.open import Gateways, OpenJobs
from wire.queue import POP, Boots, Delivery, Popped, Record, TaskQueue, pop_args
from wire.registry import Registry, WorkerInfo
from wire.transport import broker_url
from worker.app import App
from worker.config import Config
from worker.eviction import Eviction

QUEUE = "sagrada.m"


def test_no_job_is_accepted(redis: Redis, ledger: Ledger) -> None:
    job, queue = make_job(), TaskQueue(redis, QUEUE)
    with full(redis):
        with pytest.raises(OutOfMemoryError):
            ledger.submit(job, QUEUE)
        with pytest.raises(OutOfMemoryError):
            queue.put("a", "t", "{}")
        assert ledger.record(job.id) is None and queue.size() == 0
    assert ledger.submit(job, QUEUE)[0] and queue.put("a", "t", "{}")


def test_a_job_that_waits_is_claimed_and_runs_to_its_end(redis: Redis, ledger: Ledger) -> None:
    job, (end, result), tokens = submitted(ledger), end_of(3), [token(n, 1) for n in range(3)]
    with full(redis):
        heard, mine = Heard(redis, job), claimed(ledger, job)
        with pytest.raises(OutOfMemoryError):
            ledger.append(job.id, 1, tokens[0])
        assert ledger.reappend(job.id, 1, "a", mine.claim, tokens[:2]).outcome is Outcome.OK
        ledger.set_prompt_tokens(job.id, 3)
        assert ledger.finish(job.id, 1, end, result, tokens[2:]).outcome is Outcome.OK
        assert heard.events(4) == [*tokens, end]
    assert ledger.read(job.id)[1:] == [*tokens, end] and redis.zscore(OPEN, job.id) is None


def test_jobs_are_cancelled_expired_handed_over_and_deleted(redis: Redis, ledger: Ledger) -> None:
    cancelled, running, done = submitted(ledger), submitted(ledger), completed(ledger)
    late, unwanted, unreadable = submitted(ledger, ttl=0.001), submitted(ledger), make_job()
    claimed(ledger, running)
    with full(redis):
        assert ledger.cancel(cancelled.id).changed
        assert ledger.expire(late.id).changed
        assert ledger.release(running.id, 1) and claimed(ledger, running).attempt == 2
        assert ledger.delete(done.id) == "deleted"
        assert ledger.withdraw(unwanted.id)
        assert ledger.refuse(unreadable.id, "it makes no sense").changed


def test_messages_are_taken_acked_and_put_back_and_leases_hold(redis: Redis) -> None:
    queue, boots = TaskQueue(redis, QUEUE), Boots(redis)
    for task in "abc":
        queue.put(task, "t" + task, "{}")
    with full(redis):
        assert boots.register("boot", 60) and boots.renew("boot", 60)
        popped = Popped(*POP(redis, *pop_args("boot", 2, False, [QUEUE])))
        a, b = (Delivery("boot", r.queue, r.task, r.tag) for r in map(Record.parse, popped.taken))
        assert boots.ack([a]) == 1 and boots.restore([b]) == 1
        assert POP(redis, *pop_args("boot", 1, False, [QUEUE]))
        boots.leave("boot")
        assert boots.reap(declare=True)[1] == 1 and queue.size() == 2


def test_whoever_lives_can_say_so(redis: Redis, ledger: Ledger) -> None:
    """Else a full Redis would cancel the jobs of every connection, and no worker would be known."""
    job, gateways, registry, jobs = submitted(ledger), Gateways(redis), Registry(redis), OpenJobs(redis)
    info = WorkerInfo(boot="boot", name="w", model="m", queue=QUEUE, state="serving")
    with full(redis):
        gateways.renew("gateway", 60)
        registry.publish(info, 60)
        assert registry.get_blob(registry.put_blob({"tokenizer.json": b"{}"}))
        jobs.look_again(job.id, 5)
        assert jobs.due(10, 60)[1] == [job.id]
    assert gateways.live() == {"gateway"} and redis.zscore(GATEWAYS, "gateway")
    assert [each.boot for each in registry.list()] == ["boot"]


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's
def test_a_worker_binds_its_queues_and_stores_its_results(redis: Redis, redis_url: str) -> None:
    producer, worker = Celery(backend=redis_url, set_as_current=False), App(Config(redis_url=redis_url))
    backend: Any = worker.backend
    with full(redis), Connection(broker_url(redis_url)) as connection:
        for name, options in (("sagrada.new", {}), ("new.pidbox", {"expires": 10.0})):
            Queue(name, Exchange(name), name, channel=connection.channel(), **options).declare()
            assert redis.exists(f"_kombu.binding.{name}")
        backend.store_result("task", {"text": "ab"}, "SUCCESS")
        assert AsyncResult("task", app=producer).get(timeout=10) == {"text": "ab"}
    assert 0 < redis.ttl("celery-task-meta-task") <= 3600
    worker.close()
    producer.close()


def test_a_redis_that_would_evict_jobs_is_warned_of(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    eviction, steps = (
        Eviction(redis),
        ((0, "allkeys-lru", 0), (1 << 30, "noeviction", 0), (1 << 30, "allkeys-lru", 1)),
    )
    try:
        for limit, policy, warnings in steps:
            redis.config_set("maxmemory", limit)
            redis.config_set("maxmemory-policy", policy)
            for _ in range(2):
                eviction.look()
            assert caplog.text.count("Set `maxmemory-policy noeviction`") == warnings
    finally:
        redis.config_set("maxmemory", 0)
        redis.config_set("maxmemory-policy", "noeviction")
