"""The queue's order as arithmetic, over 100,000 jobs: nobody starves, tenants share, and nothing is slower for it."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from wire.queue import AGEING_MS, TURN_MS


@dataclass(frozen=True)
class Sent:
    """A job: when it comes (ms), whose it is, how urgent."""

    at: int
    tenant: str
    priority: int = 5


@dataclass
class Order:
    """What wire/lua/queue_put.lua does, in integers; tests/integration/queue holds the script to it."""

    turns: dict[tuple[str, int], int]
    waiting: list[tuple[int, int, Sent]]
    count: int = 0

    @classmethod
    def empty(cls) -> Order:
        return cls({}, [])

    def put(self, job: Sent) -> int:
        at = job.at
        if job.tenant:
            if not self.waiting:
                self.turns.clear()
            last = self.turns.get((job.tenant, job.priority))
            at = at if last is None else max(at, last + TURN_MS)
            self.turns[job.tenant, job.priority] = at
        score = at + job.priority * AGEING_MS
        self.count += 1
        heapq.heappush(self.waiting, (score, self.count, job))
        return score

    def take(self) -> Sent:
        return heapq.heappop(self.waiting)[2]


def served(jobs: Iterable[Sent], service: int) -> list[tuple[Sent, int]]:
    """Each job with the ms at which it is taken, by one server that takes one every `service` ms."""
    coming, order, now, done = sorted(jobs, key=lambda job: job.at), Order.empty(), 0, []
    index = 0
    while index < len(coming) or order.waiting:
        if not order.waiting:
            now = max(now, coming[index].at)
        while index < len(coming) and coming[index].at <= now:
            order.put(coming[index])
            index += 1
        done.append((order.take(), now))
        now += service
    return done


def waits(done: list[tuple[Sent, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for job, taken in done:
        found[job.tenant].append(taken - job.at)
    return found


@pytest.fixture(scope="module")
def crowd() -> list[Sent]:
    """One tenant sends 90,000 jobs at once; ten others 1,000 each over the same time, one now and then."""
    chance = random.Random(1)
    light = [Sent(chance.randrange(10**7), f"light{n % 10}") for n in range(10_000)]
    return [*(Sent(0, "heavy") for _ in range(90_000)), *light]


def test_a_flood_of_one_tenant_delays_no_other(crowd: list[Sent]) -> None:
    done = waits(served(crowd, 100))
    light = sorted(wait for name, all_of in done.items() if name != "heavy" for wait in all_of)
    assert light[len(light) // 2] <= 200, "two jobs ahead of it"
    assert light[-1] <= 20_000


def test_it_costs_the_flood_only_what_the_others_took(crowd: list[Sent]) -> None:
    heavy = waits(served(crowd, 100))["heavy"]
    assert max(heavy) <= 100 * len(crowd)
    assert len(heavy) == 90_000


def test_two_floods_share_evenly() -> None:
    jobs = [*(Sent(0, "a") for _ in range(50_000)), *(Sent(1, "b") for _ in range(50_000))]
    first = [job.tenant for job, _ in served(jobs, 10)[:10_000]]
    assert 4_990 <= first.count("b") <= 5_010


def test_without_names_first_come_is_first_served() -> None:
    chance = random.Random(2)
    jobs = [Sent(chance.randrange(10**6), "") for _ in range(100_000)]
    assert [job.at for job, _ in served(jobs, 20)] == sorted(job.at for job in jobs)


def test_nothing_waits_for_ever_behind_what_is_more_urgent() -> None:
    """Twice as many urgent jobs as can be served: one of priority 9 is overtaken for 90 s of arrivals, no longer."""
    jobs = [
        *(Sent(at, "", 0) for at in range(0, 10**6, 10)),
        *(Sent(at, "", 9) for at in range(0, 10**6, 1000)),
    ]
    for job, taken in served(jobs, 20):
        if job.priority == 9:
            ahead = (job.at + 9 * AGEING_MS) // 10 + job.at // 1000 + 1
            assert taken <= ahead * 20


def test_a_tenant_s_urgent_job_does_not_wait_for_its_own_flood() -> None:
    jobs = [*(Sent(0, "a") for _ in range(100_000)), Sent(5_000, "a", 0)]
    assert next(taken for job, taken in served(jobs, 10) if job.priority == 0) <= 5_010
