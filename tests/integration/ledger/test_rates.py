"""What an API key may use per minute, counted in Redis. A slow machine only gives keys more time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from tests.support.full import full
from wire.keys import rate_key
from wire.rates import Rates, Standing


def pass_time(redis: Any, seconds: float) -> None:
    """As if so much time had gone by: what is kept of the key moves into the past."""
    at = float(redis.hget(rate_key("k"), "at"))
    redis.hset(rate_key("k"), "at", f"{at - 1000 * seconds:.3f}")


def of(standing: Standing | None) -> Standing:
    assert standing is not None
    return standing


def test_a_minute_s_worth_may_be_taken_at_once_and_comes_back_evenly(redis: Redis) -> None:
    rates = Rates(redis)
    taken = [rates.take("k", 3, 0, 100) for _ in range(3)]
    assert all(each.granted and each.wait == 0 and each.tokens is None for each in taken)
    assert [of(each.requests).limit for each in taken] == [3, 3, 3] and of(taken[0].requests).left == 2
    refused = rates.take("k", 3, 0, 100)
    assert not refused.granted and 0 < refused.wait <= 20 and of(refused.requests).left == 0
    assert 40 < of(refused.requests).reset <= 60
    pass_time(redis, 20)
    assert rates.take("k", 3, 0, 100).granted and not rates.take("k", 3, 0, 100).granted


def test_both_are_taken_or_neither(redis: Redis) -> None:
    rates = Rates(redis)
    assert rates.take("k", 10, 1000, 1000).granted
    refused = rates.take("k", 10, 1000, 900)
    assert not refused.granted and 0 < refused.wait == of(refused.tokens).wait <= 54
    assert of(refused.requests).left >= 9 and of(refused.requests).wait == 0

    assert rates.take("other", 1, 1000, 10).granted
    refused = rates.take("other", 1, 1000, 10)
    assert not refused.granted and 0 < refused.wait == of(refused.requests).wait <= 60
    assert of(refused.tokens).left >= 990 and of(refused.tokens).wait == 0


def test_keys_do_not_share_and_nothing_stays(redis: Redis) -> None:
    rates, client = Rates(redis), redis
    assert rates.take("k", 1, 0, 0).granted and rates.take("other", 1, 0, 0).granted
    lives: Any = client.pttl(rate_key("k"))
    assert 0 < lives <= 60_000
    assert not rates.take("k", 1, 0, 0).granted
    after: Any = client.pttl(rate_key("k"))
    assert 0 < after <= lives, "who is refused does not wait longer for it"
    assert rates.take("free", 0, 0, 10**9).granted and not client.exists(rate_key("free"))
    assert rates.take("idle", 0, 5, 0).granted and not client.exists(rate_key("idle"))


def test_a_clock_that_goes_back_takes_nothing_away(redis: Redis) -> None:
    rates = Rates(redis)
    assert rates.take("k", 2, 0, 0).granted
    pass_time(redis, -3600)
    assert rates.take("k", 2, 0, 0).granted and not rates.take("k", 2, 0, 0).granted


def test_single_tokens_are_counted_under_the_largest_limit(redis: Redis) -> None:
    rates: Any = Rates(redis)
    assert rates.take("k", 0, 10**9, 10**9 - 4).granted
    for left in range(3, -1, -1):
        pass_time(redis, -3600)  # no time passes, so nothing comes back
        assert of(rates.take("k", 0, 10**9, 1).tokens).left == left


def test_many_at_once_get_what_there_is(redis: Redis) -> None:
    rates = Rates(redis)
    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(lambda _: rates.take("k", 0, 20, 1).granted, range(40)))
    assert 20 <= sum(granted) <= 25, "one comes back every three seconds"


@pytest.mark.parametrize("limits", [(1, 0), (0, 10), (1, 10)])
def test_a_full_redis_counts_on(redis: Redis, limits: tuple[int, int]) -> None:
    with full(redis):
        assert Rates(redis).take("k", *limits, 10).granted
        assert not Rates(redis).take("k", *limits, 10).granted
