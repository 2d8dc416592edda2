"""A Redis that comes back with what it knew a while ago: the owner puts back what was lost."""

from __future__ import annotations

from typing import Any

import msgspec
from redis import Redis

from tests.integration.ledger.support import claimed, end_of, make_job, submitted, token
from wire.commands import Outcome
from wire.job import Job
from wire.keys import job_key, log_key
from wire.ledger import Ledger


def snapshot(redis: Redis, job: Job) -> dict[str, bytes | None]:
    client: Any = redis
    return {key: client.dump(key) for key in (job_key(job.id), log_key(job.id))}


def rewind(redis: Redis, snapshot: dict[str, bytes | None]) -> None:
    client: Any = redis
    for key, data in snapshot.items():
        client.delete(key)
        if data is not None:
            client.restore(key, 0, data)


def test_lost_tokens_come_back_from_the_owner(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    claim = claimed(ledger, job)
    tokens = [token(n, 1) for n in range(5)]
    ledger.append(job.id, 1, tokens[0])
    before = snapshot(redis, job)
    for each in tokens[1:]:
        ledger.append(job.id, 1, each)
    rewind(redis, before)
    assert ledger.reappend(job.id, 1, "a", claim.claim, tokens[3:]) == (Outcome.LOST, 1)
    assert ledger.reappend(job.id, 1, "a", claim.claim, [], total=5) == (Outcome.LOST, 1)
    for _ in range(2):
        assert ledger.reappend(job.id, 1, "a", claim.claim, tokens[1:]) == (Outcome.OK, 5)
    assert ledger.read(job.id)[1:] == tokens


def test_a_lost_claim_is_raised_again_not_fenced(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    claimed(ledger, job, "a")
    ledger.append(job.id, 1, token(0, 1))
    before = snapshot(redis, job)
    second = claimed(ledger, job, "b")
    ledger.append(job.id, 2, token(1, 2))
    rewind(redis, before)
    assert ledger.reappend(job.id, 2, "b", second.claim, [token(1, 2)]) == (Outcome.OK, 2)
    assert ledger.append(job.id, 1, token(2, 1)) is Outcome.FENCED
    end, result = end_of(2)
    assert ledger.finish(job.id, 2, end, result).outcome is Outcome.OK


def test_a_claim_lost_with_its_log_is_restored(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    before = snapshot(redis, job)
    claim = claimed(ledger, job)
    rewind(redis, before)
    assert ledger.append(job.id, 1, token(0, 1)) is Outcome.GONE
    assert ledger.reappend(job.id, 1, "a", claim.claim, [token(0, 1)]) == (Outcome.OK, 1)
    record = ledger.record(job.id)
    assert record is not None
    assert (record.state, record.attempt, record.boot) == ("in_progress", 1, "a")
    assert record.started > 0


def test_a_finish_after_a_lost_claim_counts(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    before = snapshot(redis, job)
    claimed(ledger, job)
    rewind(redis, before)
    end, result = end_of(1)
    assert ledger.finish(job.id, 1, end, result, [token(0, 1)]).outcome is Outcome.OK
    record = ledger.record(job.id)
    assert record is not None
    assert (record.state, record.attempt) == ("completed", 1)


def test_a_job_that_was_lost_with_its_record_is_restored_by_its_owner(ledger: Ledger, redis: Redis) -> None:
    client: Any = redis
    job = msgspec.structs.replace(make_job(), tenant="acme")
    ledger.submit(job, "sagrada.m")
    claim = claimed(ledger, job)
    client.flushall()
    tokens = [token(n, 1) for n in range(3)]
    assert ledger.reappend(job.id, 1, "a", claim.claim, tokens).outcome is Outcome.GONE
    restored = ledger.reappend(job.id, 1, "a", claim.claim, tokens, body=claim.job, queue="sagrada.m")
    assert restored == (Outcome.OK, 3)
    record = ledger.record(job.id)
    assert ledger.job(job.id) == job and record and record.tenant == "acme", "it is nobody else's now"
    assert ledger.submit(job, "sagrada.m", "its digest")[0] is False
    end, result = end_of(3)
    assert ledger.finish(job.id, 1, end, result).outcome is Outcome.OK
    assert [event.seq for event in ledger.read(job.id)] == [0, 0, 1, 2, 3]


def test_a_job_that_was_deleted_is_not_restored(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    claim = claimed(ledger, job)
    ledger.cancel(job.id)
    ledger.delete(job.id)
    late = ledger.reappend(job.id, 1, "a", claim.claim, [token(0, 1)], body=claim.job, queue="sagrada.m")
    assert late.outcome is Outcome.GONE
    assert ledger.record(job.id) is None
