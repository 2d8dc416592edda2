"""The reconciler on a real Redis: what nobody holds is queued again, what may not go on ends, the rest is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as LostConnection

from tests.integration.ledger.support import Heard, claimed, completed, end_of, make_job, submitted, token
from wire.job import Job
from wire.keys import OPEN, boot_channel, job_key, queue_keys, unacked_key
from wire.ledger import Ledger
from wire.open import Gateways, OpenJobs
from wire.queue import POP, Boots, TaskQueue, pop_args
from worker.reconciler import PAUSE, Reconciler

QUEUE = "sagrada.m"


class World:
    """A reconciler, what it sent, and the process that it is of."""

    id = "me"

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        self.sent: list[tuple[Job, str]] = []
        self.quiet = False
        self.held: set[str] = set()
        self.reconciler = Reconciler(redis, 600, lambda *sent: self.sent.append(sent), self)
        self.boots, self.queue = Boots(redis), TaskQueue(redis, QUEUE)

    def tasks(self) -> set[str]:
        return self.held

    def look(self) -> list[str]:
        """Make every open job due, and look once; whom it queued again."""
        for job_id in self.redis.zrange(OPEN, 0, -1):
            self.redis.zadd(OPEN, {job_id: 0})
        self.sent.clear()
        self.reconciler.turn()
        return [job.id for job, _ in self.sent]

    def put(self, job_id: str) -> None:
        """Queue it, as its gateway would have."""
        assert self.queue.put(job_id, f"tag-{job_id}", '{"body": "", "properties": {}, "headers": {}}')

    def take(self, boot: str) -> None:
        """Let the boot pop what waits."""
        assert self.boots.register(boot, 60)
        assert POP(self.redis, *pop_args(boot, 10, False, [QUEUE]))[3], "nothing was taken"


def states(ledger: Ledger, *jobs: Job) -> list[str]:
    return [record.state if (record := ledger.record(job.id)) else "unknown" for job in jobs]


@pytest.fixture
def world(redis: Redis) -> World:
    return World(redis)


def test_a_record_without_a_message_is_queued_again(world: World, ledger: Ledger) -> None:
    job = msgspec.structs.replace(make_job(), priority=2)
    ledger.submit(job, QUEUE)
    assert world.look() == [job.id]
    assert world.sent == [(job, QUEUE)]
    assert world.reconciler.counters["requeued"] == 1


def test_a_new_job_is_left_to_its_submitter_for_a_while(world: World, ledger: Ledger) -> None:
    submitted(ledger)
    assert world.reconciler.turn() == 0


def test_one_look_is_one_reconciler_s(world: World, ledger: Ledger) -> None:
    job = submitted(ledger)
    assert world.look() == [job.id]
    assert world.reconciler.turn() == 0, "due again only after a pause"
    (score,) = (at for _, at in world.redis.zrange(OPEN, 0, -1, withscores=True))
    now = world.redis.time()[0] * 1000
    assert 0 < score - now <= 1000 * PAUSE + 1000


@pytest.mark.parametrize("where", ["queued", "popped", "popped by one that died", "running"])
def test_what_somebody_holds_is_left_alone(world: World, ledger: Ledger, where: str) -> None:
    job = submitted(ledger)
    world.put(job.id)
    if where != "queued":
        world.take("a")
    if where == "popped by one that died":
        world.boots.leave("a")
    if where == "running":
        claimed(ledger, job, "a")
    assert world.look() == []


def test_a_running_job_whose_message_was_lost_waits_for_its_owner(world: World, ledger: Ledger) -> None:
    job = submitted(ledger)
    world.boots.register("a", 60)
    claimed(ledger, job, "a")
    assert world.look() == [], "it runs and will finish"
    world.boots.leave("a")
    assert world.look() == [job.id], "its owner is gone, and no message brings it back"


def test_a_job_that_redis_says_is_run_here_and_is_not_is_queued_again(world: World, ledger: Ledger) -> None:
    """A failover has undone its end."""
    mine, other = submitted(ledger), submitted(ledger)
    for job, boot in ((mine, "me"), (other, "a")):
        world.boots.register(boot, 60)
        claimed(ledger, job, boot)
    world.held = {mine.id}
    assert world.look() == []
    world.held = set()
    assert world.look() == [mine.id], "the other's owner is asked for it"


def _away(ids: list[str]) -> None:
    raise LostConnection("the connection broke")


def test_after_a_failover_every_job_is_looked_at(
    world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.reconciler.MOST", 2)
    world.boots.register("me", 60)
    jobs = [submitted(ledger) for _ in range(3)]
    for job in jobs:
        claimed(ledger, job, "me")
    assert world.reconciler.turn() == 0, "none is due"
    world.reconciler.writes_lost()
    with monkeypatch.context() as broken:
        broken.setattr(world.reconciler, "_records", _away)
        with pytest.raises(LostConnection):
            world.reconciler.turn()
    assert [world.reconciler.turn() for _ in range(3)] == [2, 1, 0], (
        "a turn that was broken off is done again"
    )
    assert {job.id for job, _ in world.sent} == {job.id for job in jobs}


def test_a_job_that_was_handed_over_into_nowhere_is_queued_again(world: World, ledger: Ledger) -> None:
    job = submitted(ledger)
    world.boots.register("a", 60)
    attempt = claimed(ledger, job, "a").attempt
    assert ledger.release(job.id, attempt)
    assert world.look() == [job.id]


def _finish(ledger: Ledger) -> None:
    completed(ledger)


def _cancel(ledger: Ledger) -> None:
    ledger.cancel(submitted(ledger).id)


def _refuse(ledger: Ledger) -> None:
    ledger.refuse("bad", "no", queue=QUEUE, model="m")


@pytest.mark.parametrize("end", [_finish, _cancel, _refuse])
def test_a_job_leaves_the_index_with_its_end(
    world: World, ledger: Ledger, end: Callable[[Ledger], None]
) -> None:
    end(ledger)
    assert len(OpenJobs(world.redis)) == 0


def test_an_entry_without_a_record_is_forgotten(world: World, ledger: Ledger) -> None:
    job = submitted(ledger)
    world.redis.delete(job_key(job.id))
    assert world.look() == []
    assert len(OpenJobs(world.redis)) == 0


def test_a_deadline_ends_a_job_that_waits(world: World, ledger: Ledger) -> None:
    job = submitted(ledger, ttl=0.001)
    world.put(job.id)
    heard = Heard(world.redis, job)
    assert world.look() == []
    assert states(ledger, job) == ["expired"]
    assert world.queue.size() == 0, "nobody is to take it"
    assert [event.seq for event in heard.events(1)] == [0]
    assert world.reconciler.counters["expired"] == 1


def test_a_start_deadline_counts_only_until_the_start(world: World, ledger: Ledger) -> None:
    late, begun = (msgspec.structs.replace(make_job(), start_ttl=0.001) for _ in range(2))
    longer = msgspec.structs.replace(begun, start_ttl=60.0)
    ledger.submit(late, QUEUE)
    ledger.submit(longer, QUEUE)
    world.boots.register("a", 60)
    claimed(ledger, longer, "a")
    for job in (late, longer):  # a millisecond may not have passed yet
        world.redis.hset(job_key(job.id), "start_by", 1)
    world.look()
    assert states(ledger, late, longer) == ["expired", "in_progress"]


def test_a_look_is_due_no_later_than_a_deadline(world: World, ledger: Ledger) -> None:
    job = submitted(ledger, ttl=5.0)
    world.put(job.id)
    world.look()
    record = ledger.record(job.id)
    assert record and world.redis.zscore(OPEN, job.id) == record.deadline


def test_a_claim_past_the_start_deadline_finds_the_job_expired(world: World, ledger: Ledger) -> None:
    job = msgspec.structs.replace(make_job(), start_ttl=0.001)
    ledger.submit(job, QUEUE)
    world.redis.hset(job_key(job.id), "start_by", 1)
    ledger.claim(job.id, "a")
    assert states(ledger, job) == ["expired"]


def test_the_jobs_of_a_gateway_end_with_it(world: World, ledger: Ledger) -> None:
    bound, free = msgspec.structs.replace(make_job(), gateway="g"), make_job()
    for job in (bound, free):
        ledger.submit(job, QUEUE)
        world.put(job.id)
    gateways = Gateways(world.redis)
    gateways.renew("g", 60)
    assert world.look() == []
    assert states(ledger, bound, free) == ["queued", "queued"]
    gateways.leave("g")
    world.look()
    assert states(ledger, bound, free) == ["cancelled", "queued"]
    assert world.queue.peek() == [free.id]
    assert world.reconciler.counters["abandoned"] == 1


def test_the_owner_of_a_job_that_ended_hears_of_it(world: World, ledger: Ledger) -> None:
    job = msgspec.structs.replace(make_job(), gateway="g")
    ledger.submit(job, QUEUE)
    world.put(job.id)
    world.take("a")
    claimed(ledger, job, "a")
    ear = world.redis.pubsub(ignore_subscribe_messages=True)
    ear.subscribe(boot_channel("a"))
    ear.get_message(timeout=5)
    world.look()
    assert ear.get_message(timeout=5)["data"].decode() == job.id


def test_nothing_counts_as_lost_while_it_is_quiet(world: World, ledger: Ledger) -> None:
    job = submitted(ledger)
    world.quiet = True
    assert world.look() == []
    world.quiet = False
    assert world.look() == [job.id]


def test_a_turn_is_bounded(world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.reconciler.MOST", 3)
    jobs = [submitted(ledger) for _ in range(5)]
    assert len(world.look()) == 3
    assert world.reconciler.turn() == 2
    assert {job.id for job, _ in world.sent} == {job.id for job in jobs}


def test_a_job_that_redis_lost_is_open_again_once_its_owner_restores_it(world: World, ledger: Ledger) -> None:
    job = submitted(ledger)
    claim = claimed(ledger, job, "a")
    world.redis.flushall()
    ledger.reappend(job.id, claim.attempt, "a", claim.claim, [token(0, 1)], body=job, queue=QUEUE)
    assert world.look() == [job.id], "no boot of that name lives"
    end, result = end_of(1)
    ledger.finish(job.id, claim.attempt, end, result)
    assert len(OpenJobs(world.redis)) == 0


def test_the_names_of_the_scripts_are_those_of_the_table(world: World, ledger: Ledger) -> None:
    """open_unheld.lua derives them; a renamed key must not make every job look lost."""
    job = submitted(ledger)
    world.put(job.id)
    assert world.redis.hexists(queue_keys(QUEUE)[1], job.id)
    world.take("a")
    assert world.redis.hlen(unacked_key("a")) == 1
    assert world.redis.zscore(OPEN, job.id)
