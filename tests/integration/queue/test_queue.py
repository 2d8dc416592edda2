"""The queue's scripts and the transport's sending side, on a real Redis, without a worker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.connection import Connection
from redis import Redis

from tests.integration.queue.fleet import Fleet
from wire.keys import DEAD, LIVE
from wire.queue import POP, TURN_MS, Boots, Delivery, Popped, Record, Script, TaskQueue, pop_args
from wire.transport import PRIORITY_HEADER, broker_url

QUEUE = "sagrada.test"


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> TaskQueue:
    return TaskQueue(redis, QUEUE)


def pop(redis: Redis, boot: str, most: int = 10, resync: bool = False, queue: str = QUEUE) -> Popped | None:
    reply = POP(redis, *pop_args(boot, most, resync, [queue]))
    return None if reply is None else Popped(*reply)


def taken(popped: Popped | None) -> list[Record]:
    assert popped is not None
    return [Record.parse(record) for record in popped.taken]


def held(boot: str, record: Record) -> Delivery:
    return Delivery(boot, record.queue, record.task, record.tag)


def test_a_task_is_queued_once(queue: TaskQueue) -> None:
    assert queue.put("a", "t1", "{}")
    assert not queue.put("a", "t2", "{}", priority=0)
    assert queue.size() == 1


def test_position_removal_purge(queue: TaskQueue) -> None:
    for task in "abc":
        queue.put(task, "t" + task, "{}")
    assert [queue.position(task) for task in "abcx"] == [1, 2, 3, None]
    assert queue.remove("b")
    assert not queue.remove("b")
    assert queue.peek() == ["a", "c"]
    assert queue.position("c") == 2
    assert queue.put("b", "again", "{}"), "what was removed can be queued again"
    assert queue.purge() == 3
    assert queue.size() == 0


def test_waiting_outweighs_priority(redis: Redis, queue: TaskQueue) -> None:
    queue.put("old", "t1", "{}", priority=9)
    queue.put("urgent", "t3", "{}", priority=0)
    assert queue.peek() == ["urgent", "old"]
    redis.zincrby("sagrada:q:" + QUEUE, -90_001, "old")  # as if it had been sent 90 s earlier
    assert queue.peek() == ["old", "urgent"]


def test_tenants_take_turns_and_the_order_of_each_is_kept(redis: Redis, queue: TaskQueue) -> None:
    for n in range(6):
        queue.put(f"a{n}", f"ta{n}", "{}", tenant="a")
    queue.put("b0", "tb0", "{}", tenant="b")
    queue.put("urgent", "tu", "{}", tenant="a", priority=0)
    queue.put("nobody's", "tn", "{}")
    assert queue.peek() == ["urgent", "a0", "b0", "nobody's", "a1", "a2", "a3", "a4", "a5"]
    queue.purge()
    queue.put("a6", "ta6", "{}", tenant="a")
    queue.put("b1", "tb1", "{}", tenant="b")
    assert queue.peek() == ["a6", "b1"], "an empty queue owes nobody a turn"


def test_what_is_queued_already_takes_no_turn(queue: TaskQueue) -> None:
    for _ in range(5):
        queue.put("a0", "ta0", "{}", tenant="a")
    queue.put("a1", "ta1", "{}", tenant="a")
    client: Any = queue.redis
    first, second = (client.zscore("sagrada:q:" + QUEUE, task) for task in ("a0", "a1"))
    assert second - first == pytest.approx(TURN_MS, abs=1)


def test_turns_are_forgotten_when_they_have_passed(redis: Redis, queue: TaskQueue) -> None:
    queue.put("stays", "t", "{}", tenant="stays")
    turns = "sagrada:q:" + QUEUE + ":turns"
    redis.hset(turns, mapping={f"50000 old{n}": 1 for n in range(1000)})
    queue.put("new", "t2", "{}", tenant="new")
    assert set(redis.hkeys(turns)) == {b"50000 stays", b"50000 new"}


def test_the_pace_counts_what_was_taken_in_the_last_minute(redis: Redis, queue: TaskQueue) -> None:
    assert queue.pace() is None
    Boots(redis).register("b", 60)
    for n in range(30):
        queue.put(str(n), f"t{n}", "{}")
    for _ in range(3):
        assert len(POP(redis, *pop_args("b", 10, False, [QUEUE]))[3]) == 10
    pace = queue.pace()
    assert pace and 3 <= pace <= 30, "30 in 1 to 10 seconds"
    taken = "sagrada:q:" + QUEUE + ":taken"
    (period,) = (int(field) for field in redis.hkeys(taken))
    redis.hset(taken, mapping={period - age: 1000 for age in range(6, 20)})
    assert queue.pace() == pytest.approx(pace, rel=0.5), "what is older does not count"
    queue.put("31", "t31", "{}")
    POP(redis, *pop_args("b", 10, False, [QUEUE]))
    assert redis.hlen(taken) <= 7


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
def test_names_that_would_break_a_record_are_refused(queue: TaskQueue, name: str) -> None:
    with pytest.raises(ValueError, match="characters"):
        queue.put(name, "tag", "{}")
    with pytest.raises(ValueError, match="characters"):
        TaskQueue(queue.redis, name)


def test_only_a_boot_with_a_lease_may_pop(redis: Redis, queue: TaskQueue) -> None:
    queue.put("a", "t", "{}")
    assert pop(redis, "nobody") is None
    Boots(redis).register("boot", 60)
    assert [record.task for record in taken(pop(redis, "boot"))] == ["a"]


def test_a_message_comes_back_to_its_old_place_and_says_so(redis: Redis, queue: TaskQueue) -> None:
    boots = Boots(redis)
    boots.register("boot", 60)
    body = json.dumps({"empty": [], "text": "ünïcödé\n"})
    for task in "abc":
        queue.put(task, "t" + task, body)
    first = taken(pop(redis, "boot", 1))[0]
    assert (first.task, first.redeliveries, json.loads(first.body)) == ("a", 0, json.loads(body))
    assert boots.restore([held("boot", first)]) == 1
    assert queue.peek() == ["a", "b", "c"]
    again = taken(pop(redis, "boot", 1))[0]
    assert (again.task, again.redeliveries, again.body) == ("a", 1, body)


def test_an_ack_also_finds_what_a_reaper_put_back(redis: Redis, queue: TaskQueue) -> None:
    boots = Boots(redis)
    boots.register("boot", 0)
    queue.put("a", "t", "{}")
    record = taken(pop(redis, "boot"))[0]
    assert boots.reap(declare=True) == (["boot"], 1, 0)
    assert queue.size() == 1
    assert boots.ack([held("boot", record)]) == 1
    assert queue.size() == 0
    assert boots.ack([held("boot", record)]) == 0


def test_an_ack_leaves_another_message_of_the_same_task(redis: Redis, queue: TaskQueue) -> None:
    boots = Boots(redis)
    boots.register("boot", 60)
    queue.put("a", "first", "{}")
    record = taken(pop(redis, "boot"))[0]
    queue.put("a", "retry", "{}")
    assert boots.ack([held("boot", record)]) == 1
    assert queue.peek() == ["a"]


def test_leases(redis: Redis) -> None:
    boots = Boots(redis)
    assert boots.renew("boot", 60) is None
    now = boots.register("boot", 60)
    assert abs(now - time.time() * 1000) < 60_000
    assert (boots.renew("boot", 0) or 0) >= now
    assert boots.reap(declare=False) == ([], 0, 0), "quiet reapers declare nobody dead"
    assert boots.reap(declare=True) == (["boot"], 0, 0)
    assert boots.renew("boot", 60) is None, "a lost lease is not revived"


def test_a_lost_lease_and_what_it_held(redis: Redis, queue: TaskQueue) -> None:
    boots = Boots(redis)
    boots.register("old", 0)
    for task in "abc":
        queue.put(task, "t" + task, "{}")
    records = taken(pop(redis, "old"))
    boots.reap(declare=True, most=1)  # one is back in the queue, two are still in the old hash
    boots.register("thief", 60)
    stolen = taken(pop(redis, "thief", 1))[0]
    boots.register("new", 60, ["old"])
    won = boots.reclaim("new", [held("old", record) for record in records])
    assert won == [record.task != stolen.task for record in records]
    assert (boots.unacked("new"), boots.unacked("old"), queue.size()) == (2, 0, 0)
    assert boots.reclaim("unknown", []) is None
    assert boots.reap(declare=False) == ([], 0, 0)
    assert redis.zcard(DEAD) == 0


def test_leaving_returns_what_is_left(redis: Redis, queue: TaskQueue) -> None:
    boots = Boots(redis)
    boots.register("boot", 60)
    queue.put("a", "t", "{}")
    pop(redis, "boot")
    boots.leave("boot")
    assert redis.zrange(LIVE, 0, -1) == []
    assert boots.reap(declare=False) == ([], 1, 0)
    assert queue.peek() == ["a"]


def test_a_resync_hears_of_everything_and_takes_nothing(redis: Redis, queue: TaskQueue) -> None:
    Boots(redis).register("boot", 60)
    for task in "ab":
        queue.put(task, "t" + task, "{}")
    pop(redis, "boot", 1)
    heard = pop(redis, "boot", 10, resync=True)
    assert heard is not None
    assert [Record.parse(record).task for record in heard.owned] == ["a"]
    assert (heard.taken, heard.unacked, queue.size()) == ([], 1, 1)


def test_scripts_survive_a_flushed_script_cache(redis: Redis, queue: TaskQueue) -> None:
    queue.put("a", "t", "{}")
    redis.script_flush()
    assert queue.put("b", "u", "{}")
    assert isinstance(POP, Script)


def test_a_full_redis_refuses_new_jobs_and_keeps_the_old_ones_going(redis: Redis, queue: TaskQueue) -> None:
    boots = Boots(redis)
    boots.register("boot", 60)
    for task in "ab":
        queue.put(task, "t" + task, "{}")
    record = taken(pop(redis, "boot", 1))[0]
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(Exception, match="maxmemory|memory"):
            queue.put("c", "t", "{}")
        assert boots.renew("boot", 60)
        assert boots.ack([held("boot", record)]) == 1
        assert [r.task for r in taken(pop(redis, "boot"))] == ["b"]
        assert boots.restore([Delivery("boot", QUEUE, "b", "tb")]) == 1
    finally:
        redis.config_set("maxmemory", 0)


def test_a_large_backlog_of_plain_messages(redis: Redis, queue: TaskQueue) -> None:
    pipe = redis.pipeline(transaction=False)
    for number in range(10_000):
        message = {
            "headers": {"id": f"j{number}"},
            "properties": {"delivery_tag": f"t{number}", "priority": 0},
        }
        pipe.lpush(QUEUE, json.dumps(message))
    pipe.execute()
    assert queue.size() == 10_000
    Boots(redis).register("boot", 600)
    order: list[str] = []
    while records := taken(pop(redis, "boot", 1_000)):
        order += [record.task for record in records]
    assert order == [f"j{number}" for number in range(10_000)]


def test_stock_priorities_are_clamped_and_zero_means_none(redis: Redis, queue: TaskQueue) -> None:
    for task, priority in {"nan": "NaN", "zero": 0, "low": 99, "high": -5, "three": 3}.items():
        message = {"headers": {"id": task}, "properties": {"delivery_tag": "t" + task, "priority": priority}}
        redis.lpush(QUEUE, json.dumps(message))
    assert queue.absorb() == (5, 0)
    assert queue.peek() == ["high", "three", "nan", "zero", "low"]


def test_bad_messages_are_bounded(redis: Redis, queue: TaskQueue) -> None:
    for _ in range(1_100):
        redis.lpush(QUEUE, "x" * 5_000)
    while queue.absorb()[0]:
        pass
    bad = f"sagrada:q:{QUEUE}:bad"
    assert redis.llen(bad) == 1_000
    assert len(redis.lindex(bad, 0) or b"") == 4_096


def test_sending_through_the_transport(fleet: Fleet) -> None:
    app = fleet.producer()
    default, urgent = (
        app.send_task("job", task_id="one"),
        app.send_task("job", task_id="two", headers={PRIORITY_HEADER: 0}),
    )
    zero = app.send_task("job", task_id="three", priority=0)  # to kombu the same as none: see transport.py
    app.send_task("job", task_id="one")
    assert fleet.queue.peek() == [urgent.id, default.id, zero.id]
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_declare(QUEUE, passive=True).message_count == 3
        assert connection.default_channel.queue_purge(QUEUE) == 3


def test_what_the_transport_refuses(redis_url: str) -> None:
    url = broker_url(redis_url)
    with Connection(url) as connection:
        channel = connection.default_channel
        with pytest.raises(ValueError, match="only a Sagrada worker"):
            channel.basic_consume(QUEUE, False, print, "tag")
        with pytest.raises(ValueError, match="basic_get"):
            channel.basic_get(QUEUE)
    with (
        Connection(url, transport_options={"global_keyprefix": "x"}) as prefixed,
        pytest.raises(ValueError, match="database of its own"),
    ):
        prefixed.default_channel  # noqa: B018


def test_a_closed_channel_refuses_as_a_lost_connection_does(redis_url: str) -> None:
    """kombu's pool may hand one out after an error; such a refusal it mends, an AttributeError it does not."""
    with Connection(broker_url(redis_url)) as connection:
        channel = connection.default_channel
        channel.close()
        with pytest.raises(connection.recoverable_connection_errors):
            channel._put(QUEUE, channel.prepare_message("{}", properties={"delivery_tag": "t"}))
