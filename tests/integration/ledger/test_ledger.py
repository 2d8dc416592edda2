"""Each promise of the ledger by itself, on a real Redis."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from tests.integration.ledger.support import (
    Heard,
    claimed,
    completed,
    end_of,
    live_keys,
    make_job,
    submitted,
    token,
)
from tests.support.processes import until
from wire.codec import WIRE_VERSION
from wire.commands import AlreadyTerminal, Claimed, Gone, Outcome, Poisoned
from wire.errors import IdempotencyConflict, JobNotFound, NewerWireVersion
from wire.events import Cancelled, Expired, Failed, Resumed, Started
from wire.job import Job, SamplingParams, Usage, new_job_id
from wire.keys import gone_key, job_key, log_key, result_key
from wire.ledger import Ledger


def test_a_job_is_submitted_claimed_written_and_finished(ledger: Ledger, redis: Redis) -> None:
    job = make_job()
    created, record = ledger.submit(job, "sagrada.m", "digest")
    assert created
    assert (record.state, record.queue, record.attempt, record.prompt_tokens) == ("queued", "sagrada.m", 0, 3)
    assert record.deadline == record.created + 60_000
    assert ledger.job(job.id) == job
    heard = Heard(redis, job)
    claim = claimed(ledger, job)
    assert (claim.job, claim.attempt, claim.tokens) == (job, 1, ())
    assert ledger.append(job.id, 1, token(0, 1)) is Outcome.OK
    end, result = end_of(3)
    assert ledger.finish(job.id, 1, end, result, [token(1, 1), token(2, 1)]).outcome is Outcome.OK

    expected = [token(0, 1), token(1, 1), token(2, 1), end]
    assert heard.events(4) == expected
    assert ledger.read(job.id) == [Started(attempt=1, seq=0), *expected]
    assert ledger.read(job.id, after=1) == expected[2:]
    done = ledger.record(job.id)
    assert done is not None
    assert (done.state, done.result, done.usage) == ("completed", result, Usage.of(3, 3))
    assert done.created <= done.started <= done.finished
    assert all(ttl > 0 for ttl in live_keys(redis, job).values())


def test_the_same_submission_finds_the_first_and_another_conflicts(ledger: Ledger) -> None:
    job = make_job()
    assert ledger.submit(job, "q", "one")[0]
    created, record = ledger.submit(job, "q", "one")
    assert (created, record.state) == (False, "queued")
    with pytest.raises(IdempotencyConflict, match="another body"):
        ledger.submit(job, "q", "two")


def test_a_running_job_never_expires_and_a_finished_one_always_does(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    client: Any = redis
    assert client.pttl(job_key(job.id)) == -1
    attempt = claimed(ledger, job).attempt
    ledger.append(job.id, attempt, token(0, 1))
    assert set(live_keys(redis, job).values()) == {-1}
    short = Ledger(redis, result_ttl=0.001)
    end, result = end_of(1)
    short.finish(job.id, attempt, end, result)
    until(lambda: not client.exists(job_key(job.id), log_key(job.id)))
    assert client.keys("*") == []


def test_every_way_to_end_leaves_an_expiry(ledger: Ledger, redis: Redis) -> None:
    cancelled, expired = submitted(ledger), submitted(ledger, ttl=0.001)
    ledger.cancel(cancelled.id)
    until(lambda: ledger.expire(expired.id).changed)
    refused = make_job()
    ledger.refuse(refused.id, "no such field", queue="q")
    for job in (cancelled, expired, refused, completed(ledger)):
        assert all(ttl > 0 for ttl in live_keys(redis, job).values())


def test_a_later_attempt_gets_the_tokens_and_fences_the_older(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    claimed(ledger, job, "a")
    ledger.append(job.id, 1, token(0, 1))
    heard = Heard(redis, job)
    second = claimed(ledger, job, "b")
    assert (second.attempt, second.tokens) == (2, (token(0, 1),))
    assert ledger.append(job.id, 1, token(1, 1)) is Outcome.FENCED
    assert ledger.reappend(job.id, 1, "a", "x", [token(0, 1), token(1, 1)]).outcome is Outcome.FENCED
    end, result = end_of(2)
    assert ledger.finish(job.id, 1, end, result, [token(1, 1)]).outcome is Outcome.FENCED
    assert ledger.append(job.id, 2, token(1, 2)) is Outcome.OK
    assert heard.events(2) == [Resumed(attempt=2, seq=1), token(1, 2)]
    record = ledger.record(job.id)
    assert record is not None
    assert (record.attempt, record.boot) == (2, "b")


def test_started_is_the_first_claim(ledger: Ledger) -> None:
    job = submitted(ledger)
    claimed(ledger, job)
    first = ledger.record(job.id)
    claimed(ledger, job)
    second = ledger.record(job.id)
    assert first is not None
    assert second is not None
    assert 0 < first.started == second.started


def test_a_claim_whose_reply_was_lost_is_the_same_claim(ledger: Ledger) -> None:
    job = submitted(ledger)
    first = ledger.claim(job.id, "a", claim="c1")
    ledger.append(job.id, 1, token(0, 1))
    again = ledger.claim(job.id, "a", claim="c1")
    assert isinstance(first, Claimed)
    assert isinstance(again, Claimed)
    assert (first.attempt, again.attempt, again.tokens) == (1, 1, (token(0, 1),))


def test_a_finish_whose_reply_was_lost_is_the_same_finish(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    claimed(ledger, job)
    end, result = end_of(1)
    heard = Heard(redis, job)
    for _ in range(2):
        assert ledger.finish(job.id, 1, end, result, [token(0, 1)]).outcome is Outcome.OK
    assert heard.events(2) == [token(0, 1), end]
    other = Failed(seq=1, error="no")
    assert ledger.finish(job.id, 1, other).outcome is Outcome.FENCED


def test_a_finish_skips_what_the_log_has_and_refuses_to_leave_a_hole(ledger: Ledger) -> None:
    job = submitted(ledger)
    claimed(ledger, job)
    ledger.append(job.id, 1, token(0, 1))
    end, result = end_of(3)
    assert ledger.finish(job.id, 1, end, result, [token(2, 1)]) == (Outcome.LOST, 1)
    assert ledger.read(job.id) == [Started(attempt=1, seq=0), token(0, 1)]
    tail = [token(0, 1), token(1, 1), token(2, 1)]
    assert ledger.finish(job.id, 1, end, result, tail) == (Outcome.OK, 4)
    assert ledger.read(job.id)[1:] == [*tail, end]


def test_a_cancelled_job_never_runs_again(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    first = claimed(ledger, job, "a")
    ledger.append(job.id, first.attempt, token(0, 1))
    heard = Heard(redis, job)
    stopped = ledger.cancel(job.id)
    assert (stopped.changed, stopped.boot, stopped.record.queue) == (True, "a", "sagrada.m")
    again = ledger.cancel(job.id)
    assert (again.changed, again.boot) == (False, "a")
    assert ledger.append(job.id, 1, token(1, 1)) is Outcome.FENCED
    end, result = end_of(2)
    assert ledger.finish(job.id, 1, end, result, [token(1, 1)]).outcome is Outcome.FENCED
    reply = ledger.claim(job.id, "b")
    assert isinstance(reply, AlreadyTerminal)
    assert (reply.record.state, reply.record.usage) == ("cancelled", Usage.of(3, 1))
    assert heard.events(1) == [Cancelled(seq=1, usage=Usage.of(3, 1))]


def test_a_queued_job_can_be_cancelled(ledger: Ledger) -> None:
    job = submitted(ledger)
    stopped = ledger.cancel(job.id)
    assert (stopped.boot, stopped.record.state) == ("", "cancelled")
    assert ledger.read(job.id) == [Cancelled(seq=0, usage=Usage.of(3, 0))]


def test_a_passed_deadline_ends_the_job_at_the_claim(ledger: Ledger) -> None:
    job = submitted(ledger, ttl=0.001)
    record = ledger.record(job.id)
    assert record is not None
    until(lambda: isinstance(ledger.claim(job.id, "a"), AlreadyTerminal))
    record = ledger.record(job.id)
    assert record is not None
    assert record.state == "expired"
    assert isinstance(ledger.read(job.id)[-1], Expired)


def test_expire_spares_what_has_time(ledger: Ledger) -> None:
    job = submitted(ledger)
    assert not ledger.expire(job.id).changed
    assert isinstance(ledger.claim(job.id, "a"), Claimed)


def test_a_job_that_stalls_three_attempts_is_poison(ledger: Ledger) -> None:
    job = submitted(ledger)
    for _ in range(3):
        assert isinstance(ledger.claim(job.id, "a"), Claimed)
    reply = ledger.claim(job.id, "a")
    assert isinstance(reply, Poisoned)
    assert reply.attempt == 4
    end = Failed(seq=0, error="it took three workers down", usage=Usage.of(3, 0))
    assert ledger.finish(job.id, reply.attempt, end).outcome is Outcome.OK
    record = ledger.record(job.id)
    assert record is not None
    assert (record.state, record.error, record.error_type) == ("failed", end.error, "generation")


def test_progress_and_hand_over_are_no_stall(ledger: Ledger) -> None:
    job = submitted(ledger)
    for seq in range(6):
        attempt = claimed(ledger, job).attempt
        if seq % 2:
            assert ledger.release(job.id, attempt)
        else:
            ledger.append(job.id, attempt, token(seq // 2, attempt))
    record = ledger.record(job.id)
    assert record is not None
    assert record.stalls == 0
    claimed(ledger, job)
    assert not ledger.release(job.id, 1), "only the newest attempt hands over"


def test_a_repeated_claim_is_no_stall(ledger: Ledger) -> None:
    job = submitted(ledger)
    for _ in range(9):
        assert isinstance(ledger.claim(job.id, "a", claim="same"), Claimed)


def test_a_message_without_record_is_gone_unless_it_carries_the_job(ledger: Ledger) -> None:
    job = make_job()
    assert ledger.claim(job.id, "a") == Gone()
    reply = ledger.claim(job.id, "a", body=job, queue="q")
    assert isinstance(reply, Claimed)
    assert (reply.job, reply.attempt) == (job, 1)
    second = ledger.claim(job.id, "b", body=job, queue="q")
    assert isinstance(second, Claimed)
    assert second.attempt == 2, "the record is made once"


def test_a_deleted_job_leaves_nothing_and_does_not_run_again(ledger: Ledger, redis: Redis) -> None:
    client: Any = redis
    job = completed(ledger)
    client.set(result_key(job.id), "{}")
    assert ledger.delete(job.id) == "deleted"
    assert client.keys("*") == [gone_key(job.id).encode()]
    assert 0 < client.pttl(gone_key(job.id)) <= 600_000
    assert ledger.delete(job.id) == "missing"
    assert ledger.record(job.id) is None
    assert ledger.claim(job.id, "a") == Gone()
    assert ledger.claim(job.id, "a", body=job) == Gone()
    for call in (ledger.cancel, ledger.expire, ledger.job):
        with pytest.raises(JobNotFound, match=job.id):
            call(job.id)


def test_a_live_job_is_not_deleted(ledger: Ledger) -> None:
    job = submitted(ledger)
    assert ledger.delete(job.id) == "live"
    claimed(ledger, job)
    assert ledger.delete(job.id) == "live"


def test_an_id_used_again_stays_closed_to_its_former_owner(ledger: Ledger) -> None:
    job = submitted(ledger)
    former = claimed(ledger, job)
    ledger.cancel(job.id)
    ledger.delete(job.id)
    assert ledger.submit(job, "q")[0]
    latter = claimed(ledger, job)
    assert latter.attempt > former.attempt
    assert ledger.append(job.id, former.attempt, token(0, 1)) is Outcome.FENCED


def test_nothing_revives_a_record_that_is_gone(ledger: Ledger, redis: Redis) -> None:
    client: Any = redis
    job = make_job()
    end, result = end_of(1)
    ledger.set_prompt_tokens(job.id, 9)
    assert not ledger.release(job.id, 1)
    assert ledger.append(job.id, 1, token(0, 1)) is Outcome.GONE
    assert ledger.reappend(job.id, 1, "a", "c", [token(0, 1)]).outcome is Outcome.GONE
    assert ledger.finish(job.id, 1, end, result, [token(0, 1)]).outcome is Outcome.GONE
    assert client.keys("*") == []


def test_the_worker_counts_a_prompt_that_came_as_text(ledger: Ledger) -> None:
    job = Job(id=new_job_id(), model="m", params=SamplingParams(max_new_tokens=1, seed=1), inputs="x")
    ledger.submit(job, "q")
    claimed(ledger, job)
    ledger.set_prompt_tokens(job.id, 42)
    assert ledger.cancel(job.id).record.usage == Usage.of(42, 0)
    ledger.set_prompt_tokens(job.id, 7)
    record = ledger.record(job.id)
    assert record is not None and record.usage == Usage.of(42, 0), "usage is counted once, when it ends"


def test_a_newer_record_is_left_for_a_newer_worker(ledger: Ledger, redis: Redis) -> None:
    client: Any = redis
    job = submitted(ledger)
    client.hset(job_key(job.id), "v", WIRE_VERSION + 1)
    with pytest.raises(NewerWireVersion, match="newer worker"):
        ledger.claim(job.id, "a")
    record = ledger.record(job.id)
    assert record is not None
    assert (record.state, record.attempt) == ("queued", 0)


def test_scripts_that_redis_forgot_are_loaded_again(ledger: Ledger, redis: Redis) -> None:
    client: Any = redis
    job = submitted(ledger)
    client.script_flush()
    assert isinstance(ledger.claim(job.id, "a"), Claimed)


def test_finished_jobs_leave_redis_as_they_found_it(redis: Redis) -> None:
    client: Any = redis
    ledger = Ledger(redis, result_ttl=0.05)
    for _ in range(100):
        completed(ledger)
        ledger.cancel(submitted(ledger).id)
    until(lambda: client.dbsize() == 0)


def test_only_a_job_that_nobody_else_asked_for_can_be_withdrawn(ledger: Ledger, redis: Redis) -> None:
    alone, shared, begun = submitted(ledger), submitted(ledger), submitted(ledger)
    ledger.submit(shared, "sagrada.m")
    claimed(ledger, begun)
    assert [ledger.withdraw(job.id) for job in (alone, shared, begun)] == [True, False, False]
    assert [ledger.record(job.id) is None for job in (alone, shared, begun)] == [True, False, False]
    assert ledger.claim(alone.id, "b", body=alone) == Gone(), "its message may still come"
    assert not ledger.withdraw(alone.id)


def test_a_job_whose_engine_died_is_a_suspect_until_it_adds_a_token(ledger: Ledger) -> None:
    job = submitted(ledger)
    first = claimed(ledger, job)
    ledger.append(job.id, first.attempt, token(0, 1))
    assert not first.suspect
    assert ledger.release(job.id, first.attempt, engine_died=True)
    second = claimed(ledger, job, "b")
    assert second.suspect and not second.alone, "it had added a token"
    assert ledger.release(job.id, second.attempt), "handed over before it was tried"
    third = claimed(ledger, job, "c")
    assert third.suspect
    ledger.append(job.id, third.attempt, token(1, 3))
    fourth = claimed(ledger, job, "d")
    assert not fourth.suspect, "its worker died, its engine had not"
    assert ledger.release(job.id, fourth.attempt, engine_died=True)
    fifth = claimed(ledger, job, "e")
    assert fifth.suspect and fifth.alone, "it had added nothing"


def test_an_engine_s_death_counts_as_an_attempt_and_a_hand_over_does_not(ledger: Ledger) -> None:
    job = submitted(ledger)
    for _ in range(10):
        assert ledger.release(job.id, claimed(ledger, job).attempt)
    for _ in range(3):
        assert ledger.release(job.id, claimed(ledger, job).attempt, engine_died=True)
    assert isinstance(ledger.claim(job.id, "b"), Poisoned)
