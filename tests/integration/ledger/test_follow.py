"""Following a job from plain Python: live, late, cut off in between."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from tests.integration.ledger.support import claimed, completed, end_of, submitted, token
from tests.support.processes import until
from wire.codec import encode_event
from wire.commands import append_command, entry, publish_command
from wire.errors import JobNotFound
from wire.events import Done, Event, Resumed, Token
from wire.job import Job
from wire.keys import channel, log_key
from wire.ledger import Ledger
from wire.reader import follow


@contextmanager
def following(redis: Redis, job: Job, count: int) -> Iterator[Any]:
    """`count` readers in threads, subscribed when this yields; their futures."""
    client: Any = redis
    with ThreadPoolExecutor(count) as pool:
        yield [pool.submit(lambda: list(follow(redis, job.id, timeout=60))) for _ in range(count)]
        # A failed test must not wait for readers for ever: they end with the job.
        Ledger(redis).cancel(job.id)
    assert client.pubsub_numsub(channel(job.id))[0][1] == 0


def subscribed(redis: Redis, job: Job, count: int) -> None:
    client: Any = redis
    until(lambda: client.pubsub_numsub(channel(job.id))[0][1] >= count)


def write(ledger: Ledger, job: Job, attempt: int, start: int, stop: int) -> None:
    for seq in range(start, stop):
        ledger.append(job.id, attempt, token(seq, attempt))


def test_followers_see_everything_once_and_the_end_last(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    with following(redis, job, 3) as readers:
        subscribed(redis, job, 3)
        claimed(ledger, job)
        write(ledger, job, 1, 0, 50)
        end, result = end_of(52)
        ledger.finish(job.id, 1, end, result, [token(50, 1), token(51, 1)])
        expected: list[Event] = [*(token(n, 1) for n in range(52)), end]
        for reader in readers:
            assert reader.result(timeout=60) == expected


def test_followers_survive_cut_connections_and_a_new_attempt(ledger: Ledger, redis: Redis) -> None:
    client: Any = redis
    job = submitted(ledger)
    with following(redis, job, 4) as readers:
        subscribed(redis, job, 4)
        claimed(ledger, job)
        for cut in range(5):
            write(ledger, job, 1, cut * 20, cut * 20 + 10)
            client.client_kill_filter(_type="pubsub")
            write(ledger, job, 1, cut * 20 + 10, cut * 20 + 20)
        claimed(ledger, job, "b")
        write(ledger, job, 2, 100, 120)
        end, result = end_of(120)
        ledger.finish(job.id, 2, end, result)
        for reader in readers:
            events = reader.result(timeout=60)
            assert [e for e in events if isinstance(e, Resumed)] == [Resumed(attempt=2, seq=100)]
            assert [e.seq for e in events if isinstance(e, Token)] == list(range(120))
            assert events[-1] == end


def test_a_log_that_cannot_be_read_for_a_moment_loses_nothing(
    ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = redis
    job = submitted(ledger)
    claimed(ledger, job)
    write(ledger, job, 1, 0, 1)
    stream = follow(redis, job.id, timeout=60)
    assert next(stream) == token(0, 1)
    for seq in range(1, 4):
        client.execute_command(*append_command(job.id, 1, entry(token(seq, 1))))
    for seq in (1, 3):
        client.execute_command(*publish_command(job.id, entry(token(seq, 1))))

    def away(*_: Any) -> Any:
        monkeypatch.undo()
        raise ConnectionError("for a moment")

    monkeypatch.setattr("wire.reader.read_many", away)
    assert [next(stream) for _ in range(3)] == [token(1, 1), token(2, 1), token(3, 1)]
    assert isinstance(stream, Generator)
    stream.close()


def test_a_late_reader_reads_the_log(ledger: Ledger, redis: Redis) -> None:
    job = completed(ledger)
    assert [event.seq for event in follow(redis, job.id, timeout=20)] == [0, 1, 2]
    assert [event.seq for event in follow(redis, job.id, after=0, timeout=20)] == [1, 2]
    assert [type(event) for event in follow(redis, job.id, after=1, timeout=20)] == [Done]
    assert list(follow(redis, job.id, after=2, timeout=20)) == []


def test_an_unknown_job_is_said_to_be_unknown(redis: Redis) -> None:
    with pytest.raises(JobNotFound, match="nobody"):
        list(follow(redis, "nobody"))


def test_silence_ends_with_the_timeout(ledger: Ledger, redis: Redis) -> None:
    job = submitted(ledger)
    with pytest.raises(TimeoutError, match=job.id):
        list(follow(redis, job.id, timeout=0.05))


def test_an_end_that_nobody_published_is_found(
    ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow sweep is the belt: pub/sub may lose the very last message."""
    monkeypatch.setattr("wire.reader.SWEEP", 0.2)
    client: Any = redis
    job = submitted(ledger)
    events: list[Event] = []
    reader = threading.Thread(target=lambda: events.extend(follow(redis, job.id, timeout=30)))
    reader.start()
    subscribed(redis, job, 1)
    claimed(ledger, job)
    write(ledger, job, 1, 0, 1)
    client.xadd(log_key(job.id), {"e": encode_event(end_of(1)[0])}, id="1-2")
    reader.join(30)
    assert [event.seq for event in events] == [0, 1]
