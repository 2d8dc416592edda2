"""The publisher's writes on a real Redis that breaks connections, loses writes, and hears others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from tests.integration.ledger.support import token
from tests.integration.worker.workers import QUEUE, Subscriber
from tests.support.full import full
from wire.commands import append_command, entry
from wire.events import Done, Resumed, Started, Token
from wire.job import Job, SamplingParams, new_job_id
from wire.keys import job_key, log_key
from wire.ledger import Ledger, new_claim_id
from wire.replies import Claimed
from wire.tokenizer import Tokenizer
from worker.assignment import Assignment
from worker.clerk import Clerk, Fate
from worker.generation import Generation
from worker.pipeline import Away, Pipeline
from worker.script import EOS, write_tokenizer


class Desk:
    """A clerk, and jobs whose tokens the test decides."""

    def __init__(self, url: str, folder: Path) -> None:
        self.redis = Redis.from_url(url)
        self.ledger = Ledger(self.redis)
        self.pipeline = Pipeline(url, timeout=5)
        self.clerk = Clerk(self.pipeline, 60, QUEUE, lambda: "boot")
        write_tokenizer(folder)
        self.tokenizer = Tokenizer.from_folder(folder)

    def begin(self, tokens: int = 6) -> Assignment:
        job = Job(id=new_job_id(), model="m", params=SamplingParams(max_new_tokens=tokens, seed=1), ids=(65,))
        self.ledger.submit(job, QUEUE)
        assignment = Assignment(job_id=job.id, settle=lambda _: None, claim=new_claim_id())
        (claimed,) = self.clerk.claim([(assignment, None)])
        assert isinstance(claimed, Claimed)
        assignment.generation = Generation(claimed, job, self.tokenizer, {EOS})
        return assignment

    def say(self, assignment: Assignment, text: str) -> None:
        assert assignment.generation
        for id in text.encode():
            assignment.generation.push(0, id, -0.5)

    def log(self, assignment: Assignment) -> str:
        events = [e for e in self.ledger.read(assignment.job_id) if not isinstance(e, Started | Resumed)]
        assert [event.seq for event in events] == list(range(len(events)))
        return "".join(event.text for event in events if isinstance(event, Token))


@pytest.fixture
def desk(redis_url: str, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(redis_url, tmp_path)
    yield made
    made.pipeline.close()
    made.redis.close()


def test_tokens_then_the_end_of_many_jobs_at_once(desk: Desk) -> None:
    first, second = desk.begin(), desk.begin()
    desk.say(first, "ab")
    desk.say(second, "hallo!")
    assert desk.clerk.write([first, second]) == {second: Fate.FINISHED}
    assert (desk.log(first), desk.log(second)) == ("ab", "hallo!")
    assert isinstance(desk.ledger.read(second.job_id)[-1], Done)
    assert desk.clerk.write([first]) == {}


def test_a_broken_connection_repeats_nothing_and_loses_nothing(desk: Desk) -> None:
    assignment = desk.begin()
    desk.say(assignment, "ab")
    desk.clerk.write([assignment])
    desk.redis.client_kill_filter(_type="normal", skipme=True)
    desk.say(assignment, "cd")
    with pytest.raises(Away):
        desk.clerk.write([assignment])
    while desk.pipeline.wait:
        pass
    assert desk.clerk.write([assignment]) == {}
    assert desk.log(assignment) == "abcd"


def test_a_log_that_lost_its_tail_gets_it_back(desk: Desk) -> None:
    assignment = desk.begin()
    desk.say(assignment, "abcd")
    desk.clerk.write([assignment])
    key = log_key(assignment.job_id)
    kept: Any = desk.redis.xrange(key, count=3)
    desk.redis.delete(key)
    for id, fields in kept:
        desk.redis.xadd(key, fields, id=id)
    assert desk.log(assignment) == "ab"
    desk.pipeline.close()
    desk.say(assignment, "e")
    assert desk.clerk.write([assignment]) == {}
    assert desk.log(assignment) == "abcde"


def test_a_redis_that_lost_everything_gets_the_job_back(desk: Desk) -> None:
    assignment = desk.begin()
    desk.say(assignment, "abc")
    desk.clerk.write([assignment])
    desk.redis.flushall()
    desk.pipeline.close()
    desk.say(assignment, "def")
    assert desk.clerk.write([assignment]) == {assignment: Fate.FINISHED}
    assert desk.log(assignment) == "abcdef"
    record = desk.ledger.record(assignment.job_id)
    assert record
    assert (record.state, record.attempt) == ("completed", 1)


def test_a_cancelled_job_and_one_that_another_claims_are_fenced(desk: Desk) -> None:
    cancelled, claimed = desk.begin(), desk.begin()
    desk.ledger.cancel(cancelled.job_id)
    desk.ledger.claim(claimed.job_id, "another")
    desk.say(cancelled, "a")
    desk.say(claimed, "hallo!")
    assert desk.clerk.write([cancelled, claimed]) == {cancelled: Fate.FENCED, claimed: Fate.FENCED}
    assert desk.log(claimed) == ""


def test_keys_that_redis_refuses_cost_one_job(desk: Desk) -> None:
    broken, fine = desk.begin(), desk.begin()
    desk.redis.delete(log_key(broken.job_id))
    desk.redis.set(log_key(broken.job_id), "not a stream")
    for assignment in (broken, fine):
        desk.say(assignment, "ab")
    fates = desk.clerk.write([broken, fine])
    assert list(fates) == [broken]
    assert "WRONGTYPE" in str(fates[broken])
    assert desk.log(fine) == "ab"


def test_a_deleted_job_stays_deleted(desk: Desk) -> None:
    assignment = desk.begin()
    desk.ledger.cancel(assignment.job_id)
    assert desk.ledger.delete(assignment.job_id) == "deleted"
    desk.say(assignment, "ab")
    desk.clerk.write([assignment])
    assert desk.clerk.write([assignment]) == {assignment: Fate.GONE}
    assert not desk.redis.exists(job_key(assignment.job_id))


def test_a_full_redis_takes_the_tokens_of_running_jobs_in_order(desk: Desk) -> None:
    running, ending = desk.begin(9), desk.begin(6)
    heard = Subscriber(desk.redis, running.job_id)
    with full(desk.redis):
        for text in ("a", "bcd", "e"):
            desk.say(running, text)
            assert desk.clerk.write([running]) == {}
        desk.say(ending, "hallo!")
        assert desk.clerk.write([running, ending]) == {ending: Fate.FINISHED}
        assert (desk.log(running), desk.log(ending)) == ("abcde", "hallo!")
    desk.say(running, "fghi")
    assert desk.clerk.write([running]) == {running: Fate.FINISHED}
    assert desk.log(running) == "abcdefghi"
    assert [event.seq for event in heard.hear(10)] == list(range(10))


def test_of_tokens_written_together_a_full_redis_takes_none(desk: Desk) -> None:
    """Were the first refused and the second accepted, the log would have a hole."""
    job = desk.begin()
    appends = [append_command(job.job_id, 1, entry(token(n, 1))) for n in range(2)]
    with full(desk.redis):
        assert [type(reply) for reply in desk.pipeline.together(appends)] == [OutOfMemoryError] * 2
        assert desk.log(job) == ""
    assert desk.pipeline.together(appends) == [b"1-1", b"1-2"]
