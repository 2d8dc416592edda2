"""Whom to tell when: each that is refused gets a moment of their own, and a place when it comes."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from gateway.waiting_room import UNKNOWN, WaitingRoom
from wire.errors import QueueFull
from wire.line import LONGEST_MS
from wire.queue import PERIOD_MS, TaskQueue

QUEUE, PLACES = "sagrada.test", 10
LINE = f"sagrada:q:{QUEUE}:line"


class Door:
    """A full queue that is worked off at the test's pace, and whoever knocks."""

    def __init__(self, url: str) -> None:
        self.redis: Any = Redis.from_url(url)
        self.queue = TaskQueue(self.redis, QUEUE)
        for number in range(PLACES):
            self.queue.put(f"job {number}", f"tag {number}", "{}")

    def taken(self, per_second: float) -> None:
        """So many, for a minute now."""
        now = int(self.redis.time()[0]) * 1000 // PERIOD_MS
        ten_seconds = round(per_second * PERIOD_MS / 1000)
        self.redis.hset(self.queue._zset + ":taken", mapping={now - age: ten_seconds for age in range(1, 6)})

    def take(self, count: int = 1) -> None:
        for task in self.queue.peek(count):
            self.queue.remove(task)

    def wait(self, seconds: float) -> None:
        """As if so much time had passed for those in line."""
        for ticket, moment in self.redis.zrange(LINE, 0, -1, withscores=True):
            self.redis.zadd(LINE, {ticket: moment - 1000 * seconds})

    def knock(self, ticket: str) -> int:
        """0: in; else the seconds after which to come again. Through a gateway of its own."""
        try:
            WaitingRoom(self.redis, PLACES).check(QUEUE, ticket)
        except QueueFull as full:
            return full.retry_after
        self.queue.put(ticket, ticket, "{}")
        return 0


@pytest.fixture
def door(redis_url: str) -> Door:
    made = Door(redis_url)
    made.taken(2.0)
    return made


def test_those_who_are_refused_come_back_one_after_another(door: Door) -> None:
    told = [door.knock(str(number)) for number in range(40)]
    assert told == sorted(told) and told[0] == 1
    assert 18 <= told[-1] <= 26, (
        "two are taken each second, or a little less: the present ten seconds are not over"
    )


def test_who_comes_too_early_keeps_the_moment(door: Door) -> None:
    told = [door.knock(str(number)) for number in range(20)]
    assert told[-1] - 3 <= door.knock("19") <= told[-1]
    assert door.redis.zcard(LINE) == 20


def test_a_free_place_is_for_those_whose_moment_is_near(door: Door) -> None:
    door.taken(10.0)
    assert door.knock("first") == 1
    door.take()
    assert door.knock("new"), "the place is kept"
    assert door.knock("first") == 0, "nobody stands before them"
    door.take(2)
    assert door.knock("newer") == 0, "one place is kept for the one who waits, not both"
    assert door.knock("new") == 0


def test_who_comes_in_time_needs_a_place_and_nothing_else(door: Door) -> None:
    door.taken(10.0)
    early, late = [f"early {n}" for n in range(3)], "late"
    for ticket in (*early, late):
        assert door.knock(ticket) == 1
    door.wait(1)
    assert [door.knock(late), door.knock(early[0])] == [1, 1], "the queue is slower than it was"
    door.take()
    door.wait(1)
    assert door.knock(late) == 0, "also before those who are late themselves"


def test_places_are_kept_for_some_seconds_and_at_most_half_of_them(door: Door) -> None:
    door.taken(1000.0)
    for number in range(100):
        assert door.knock(str(number)) == 1
    door.take(PLACES // 2)
    assert door.knock("new")
    door.take()
    assert door.knock("new") == 0
    door.take()
    door.wait(6)
    assert door.knock("newer") == 0, "they did not come"
    assert not door.redis.exists(LINE)


def test_a_queue_that_stands_still_is_asked_again_soon_and_no_line_is_endless(door: Door) -> None:
    door.redis.delete(door.queue._zset + ":taken")
    assert door.knock("a") == UNKNOWN and not door.redis.exists(LINE)
    door.taken(0.1)
    longest = LONGEST_MS // 1000
    assert [door.knock(str(number)) for number in range(100)][-1] == longest
    assert door.redis.zcard(LINE) < 100
    assert 0 < door.redis.ttl(LINE) <= longest + 5


def test_an_empty_queue_asks_nobody_to_wait(door: Door) -> None:
    door.take(PLACES)
    assert [door.knock(str(number)) for number in range(PLACES)] == [0] * PLACES
    assert not door.redis.exists(LINE)
