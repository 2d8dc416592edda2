"""Reading logs: from anywhere, many at once, and what scripts wrote into them."""

from __future__ import annotations

from typing import Any

from redis import Redis

from tests.integration.ledger.support import claimed, make_job, submitted, token
from wire.codec import decode_event
from wire.commands import Outcome
from wire.events import Cancelled, Failed, Resumed, Started, Token
from wire.job import Usage
from wire.keys import log_key
from wire.ledger import TAIL, Ledger, read_many


def test_the_end_from_a_script_reads_like_the_end_from_a_worker(ledger: Ledger, redis: Redis) -> None:
    """cmsgpack inside Redis and msgspec outside: same maps, whatever the order and width of their parts."""
    job = make_job()
    sentence = "«no» – " + "long " * 100
    ledger.refuse(job.id, sentence, "validation", queue="q", model="m")
    (event,) = ledger.read(job.id)
    assert event == Failed(seq=0, error=sentence, error_type="validation")
    many = submitted(ledger)
    claimed(ledger, many)
    count = 70_000
    assert ledger.reappend(many.id, 1, "a", "c", [token(n, 1) for n in range(300)]) == (Outcome.OK, 300)
    redis.execute_command("XADD", log_key(many.id), f"1-{count}", "e", b"\x80")
    ledger.cancel(many.id)
    client: Any = redis
    ((_, last),) = client.xrevrange(log_key(many.id), count=1)
    assert decode_event(last[b"e"]) == Cancelled(seq=count, usage=Usage.of(3, count))


def test_a_read_from_anywhere_sees_what_comes_after(ledger: Ledger) -> None:
    job = submitted(ledger)
    events: list[Any] = []
    for attempt in (1, 2, 3):
        events.append(claimed(ledger, job).attempt)
        events[-1] = (Started if attempt == 1 else Resumed)(attempt=attempt, seq=TAIL * (attempt - 1))
        batch = [token(TAIL * (attempt - 1) + n, attempt) for n in range(TAIL)]
        for each in batch:
            ledger.append(job.id, attempt, each)
        events += batch
    assert ledger.read(job.id) == events
    for after in range(-1, 3 * TAIL):
        assert ledger.read(job.id, after) == [event for event in events if event.seq > after]


def test_many_logs_are_read_together(ledger: Ledger, redis: Redis) -> None:
    long, short, none = submitted(ledger), submitted(ledger), submitted(ledger)
    for job, count in ((long, 3 * TAIL), (short, 2)):
        claimed(ledger, job)
        ledger.reappend(job.id, 1, "a", "c", [token(n, 1) for n in range(count)])
    found = read_many(redis, {long.id: 0, short.id: 0, none.id: -1})
    assert [e.seq for e in found[long.id] if isinstance(e, Token)] == list(range(1, 3 * TAIL))
    assert found[short.id] == [token(1, 1)]
    assert found[none.id] == []
    assert read_many(redis, {}) == {}
