"""The commands as the worker's publisher sends them: many jobs in one hand-packed write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import NoScriptError

from tests.integration.ledger.support import Heard, end_of, submitted, token
from wire import commands
from wire.commands import Claimed, Outcome, entry
from wire.ledger import Ledger
from wire.record import parse_record
from wire.resp import RespConnection


@pytest.fixture
def connection(redis_url: str) -> Iterator[RespConnection]:
    raw = RespConnection(redis_url)
    assert all(isinstance(reply, bytes) for reply in raw.call(commands.LOAD))
    yield raw
    raw.close()


def test_a_batch_of_jobs_goes_through_in_step(
    connection: RespConnection, ledger: Ledger, redis: Redis
) -> None:
    jobs = [submitted(ledger) for _ in range(5)]
    heard = [Heard(redis, job) for job in jobs]
    replies = connection.call([commands.claim_command(job.id, "a", job.id, result_ttl=60) for job in jobs])
    claims = [commands.parse_claim(reply, job.id) for reply, job in zip(replies, jobs, strict=True)]
    assert all(isinstance(claim, Claimed) and claim.attempt == 1 for claim in claims)
    ledger.cancel(jobs[1].id)
    ledger.claim(jobs[2].id, "b")

    item = entry(token(0, 1))
    outcomes = [
        commands.parse_append(reply)
        for reply in connection.call([commands.append_command(job.id, 1, item) for job in jobs])
    ]
    assert outcomes == [Outcome.OK, Outcome.FENCED, Outcome.FENCED, Outcome.OK, Outcome.OK]
    connection.call([commands.publish_command(jobs[n].id, item) for n in (0, 3, 4)])
    end, result = end_of(2)
    finish = [
        commands.finish_command(job.id, 1, [entry(token(1, 1))], end, result, result_ttl=60) for job in jobs
    ]
    written = [commands.parse_written(reply).outcome for reply in connection.call(finish)]
    assert written == outcomes
    for n in (0, 3, 4):
        assert heard[n].events(3) == [token(0, 1), token(1, 1), end]
    records = connection.call([commands.record_command(job.id) for job in jobs])
    states = [record.state for record in map(parse_record, records) if record]
    assert states == ["completed", "cancelled", "in_progress", "completed", "completed"]


def test_forgotten_scripts_are_an_error_that_asks_to_reconnect(
    connection: RespConnection, ledger: Ledger
) -> None:
    job = submitted(ledger)
    connection.call([("SCRIPT", "FLUSH")])
    (reply,) = connection.call([commands.claim_command(job.id, "a", "c", result_ttl=60)])
    with pytest.raises(NoScriptError):
        commands.parse_claim(reply, "c")
