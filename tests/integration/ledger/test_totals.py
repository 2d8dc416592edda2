"""The fleet's totals: what is said twice counts once, and what is gone is not forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from wire.keys import TOTALS, totals_key
from wire.metrics import FIRST
from wire.tally import Tally
from wire.totals import EVERYTHING_EVERY, Account, read

SCOPE = ("m", "host")


@pytest.fixture
def redis(redis_url: str) -> Any:
    return Redis.from_url(redis_url)


def values(redis: Redis) -> dict[str, float]:
    (total,) = read(redis)
    assert total.scope == SCOPE
    return total.values


def test_only_what_is_new_is_added(redis: Redis) -> None:
    tally, account = Tally(*SCOPE), None
    account = Account(redis, tally)
    account.publish()  # nothing yet
    tally.count("a", "err=x", more=3)
    for _ in range(2 * EVERYTHING_EVERY + 1):
        account.publish()
    assert values(redis) == {"a|err=x": 3}
    tally.count("a", "err=x")
    tally.histogram("h", FIRST).observe(0.001, 2)
    tally.histogram("h", FIRST).observe(4000)
    account.publish()
    assert values(redis) == {"a|err=x": 4, "h|le=0.001": 2, "h|le=inf": 1, "h|sum": 4000.002}


def test_a_lost_reply_counts_nothing_twice(redis: Redis) -> None:
    tally = Tally(*SCOPE)
    account = Account(redis, tally)
    add = account._add

    def lose(**call: Any) -> None:
        add(**call)
        raise ConnectionError

    for _ in range(3):
        tally.count("a")
        account._add = lose
        with pytest.raises(ConnectionError):
            account.publish()
    account._add = add
    account.publish()
    assert values(redis) == {"a": 3}


def test_a_new_process_goes_on_from_the_total(redis: Redis) -> None:
    for process in range(3):
        tally = Tally(*SCOPE)
        tally.count("a", more=5)
        Account(redis, tally).publish()
        assert values(redis) == {"a": 5 * (process + 1)}


def test_a_redis_that_lost_everything_is_told_again_and_one_that_forgot_only_the_process_is_not(
    redis: Redis,
) -> None:
    tally = Tally(*SCOPE)
    account = Account(redis, tally)
    tally.count("a", more=5)
    account.publish()
    redis.flushall()
    for _ in range(EVERYTHING_EVERY):
        account.publish()
    assert values(redis) == {"a": 5}
    redis.delete(*redis.keys("sagrada:counted:*"))
    tally.count("a")
    account.publish()
    tally.count("a")
    account.publish()
    assert 5 < values(redis)["a"] <= 7


def test_nothing_stays_for_ever_and_who_was_not_heard_of_is_not_shown(redis: Redis) -> None:
    tally = Tally(*SCOPE)
    tally.count("a")
    Account(redis, tally).publish()
    assert all(redis.ttl(key) > 0 for key in redis.keys("*")) and len(redis.keys("*")) == 3
    redis.zadd(TOTALS, {b'["m","host"]': 1})
    assert read(redis) == [] and redis.exists(totals_key(SCOPE))
    Account(redis, tally).publish()
    assert values(redis) == {"a": 2}
