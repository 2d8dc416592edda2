"""What breaks in production: connections, workers, Redis. Every job is done, and started again only if it must."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagrada.embedded import EmbeddedServer
from tests.integration.queue.fleet import QUEUE, Fleet, done, send, until
from tests.support.proxy import Proxy
from wire.transport import PRIORITY_HEADER

LEASE = 1.0


def _ids(results: list[Any]) -> list[str]:
    return [result.id for result in results]


def _all_done(fleet: Fleet, results: list[Any]) -> bool:
    return len(list(done(results))) == len(results) and fleet.settled()


def test_broken_connections_restart_no_job(fleet: Fleet) -> None:
    fleet.start(slots="16", lease="5")
    app = fleet.producer()
    results = [*send(app, 16, s=5), app.send_task("job", countdown=3)]
    until(lambda: sum(fleet.runs(_ids(results))) == 16)
    boot = fleet.live()
    for _ in range(6):
        fleet.redis.client_kill_filter(_type="normal", skipme=True)
        fleet.redis.client_kill_filter(_type="pubsub", skipme=True)
        time.sleep(0.3)
    until(lambda: _all_done(fleet, results))
    assert fleet.runs(_ids(results)) == [1] * 17
    assert fleet.live() == boot


def _through_a_proxy(fleet: Fleet, proxy: Proxy, **env: str) -> None:
    fleet.start(slots="4", via=f"redis://127.0.0.1:{proxy.port}/0", **env)


def test_lost_pop_replies_strand_no_message(fleet: Fleet, redis_server: EmbeddedServer) -> None:
    with Proxy(redis_server.port, mark=b"\n" + QUEUE.encode() + b"\n") as proxy:
        _through_a_proxy(fleet, proxy)
        proxy.swallow = 3
        results = send(fleet.producer(), 12, s=0.05)
        until(lambda: _all_done(fleet, results))
        assert proxy.swallowed == 3
        assert fleet.runs(_ids(results)) == [1] * 12


def test_without_the_resync_they_would(fleet: Fleet, redis_server: EmbeddedServer) -> None:
    with Proxy(redis_server.port, mark=b"\n" + QUEUE.encode() + b"\n") as proxy:
        _through_a_proxy(fleet, proxy, resync="0")
        proxy.swallow = 1
        lost = send(fleet.producer(), 2, s=0)
        until(lambda: proxy.swallowed == 1)
        later = send(fleet.producer(), 2, s=0)
        until(lambda: len(list(done(later))) == 2)
        assert len(list(done(lost))) < 2
        assert sum(fleet.unacked().values()) > 0


def test_a_killed_worker_loses_nothing(fleet: Fleet) -> None:
    workers = [fleet.start(slots="8", lease=str(LEASE)) for _ in range(2)]
    results = send(fleet.producer(), 60, s=0.3)
    until(lambda: sum(fleet.runs(_ids(results))) > 16)
    workers[0].kill()
    until(lambda: _all_done(fleet, results))
    runs = fleet.runs(_ids(results))
    assert set(runs) <= {1, 2}
    # Eight ran there; of eight before them the acks may still have been on their way.
    assert runs.count(2) <= 16, "only what the killed worker had in its hands runs again"


def test_workers_that_freeze_while_they_wait_take_no_job_with_them(fleet: Fleet) -> None:
    """What hands a message to whoever waits for it loses one with each; tests/chaos/frozen.py has a thousand jobs."""
    workers = [fleet.launch(slots="64", lease=str(LEASE)) for _ in range(3)]
    for worker in workers:
        worker.ready()
    ours, stock = fleet.producer(), fleet.producer(ours=False)
    results = [*send(ours, 2), *send(stock, 2)]  # some pops are on their way
    for worker in workers:
        worker.signal(signal.SIGSTOP)
    results += [*send(ours, 23), *send(stock, 23)]
    for worker in workers[1:]:
        worker.kill()
    workers[0].signal(signal.SIGCONT)
    until(lambda: _all_done(fleet, results))
    assert len(results) == 50


@pytest.mark.parametrize("room", [True, False], ids=["others-free", "others-full"])
def test_a_zombie_goes_on_under_a_new_name(fleet: Fleet, room: bool) -> None:
    app = fleet.producer()
    frozen = fleet.start(slots="8", lease=str(LEASE))
    results = send(app, 8, s=3)
    until(lambda: sum(fleet.runs(_ids(results))) == 8)
    (old,) = fleet.live()
    frozen.signal(signal.SIGSTOP)
    other = fleet.start(slots="8" if room else "1", lease=str(LEASE))
    blocker = None if room else app.send_task("job", kwargs={"s": 300}, headers={PRIORITY_HEADER: 0})
    until(lambda: old not in fleet.live())
    until(lambda: sum(fleet.runs(_ids(results))) == 16 if room else fleet.queue.size() >= 7)
    frozen.signal(signal.SIGCONT)
    until(lambda: len(fleet.live()) == 2 and old not in fleet.live())
    until(lambda: len(list(done(results))) == 8)
    if blocker:
        app.control.revoke(blocker.id, terminate=True)
    until(fleet.settled)
    again = sum(fleet.runs(_ids(results))) - 8
    assert again >= 8 if room else again <= 1, "a full worker leaves the zombie its jobs"
    assert other.process.poll() is frozen.process.poll() is None


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "redis", aof=True)
    server.start()
    yield server
    server.start() if not server.alive else None
    server.stop()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_redis_away_for_longer_than_a_lease(own_server: EmbeddedServer, tmp_path: Path, how: str) -> None:
    fleet = Fleet(own_server.url, tmp_path)
    try:
        for _ in range(2):
            fleet.start(slots="6", lease=str(LEASE))
        results = send(fleet.producer(), 16, s=2)
        until(lambda: sum(fleet.runs(_ids(results))) == 12)
        boots = set(fleet.live())
        getattr(own_server, how)()
        time.sleep(3 * LEASE)
        own_server.start()
        until(lambda: _all_done(fleet, results))
        assert fleet.runs(_ids(results)) == [1] * 16
        assert set(fleet.live()) == boots, "nobody was declared dead for Redis's absence"
    finally:
        fleet.close()
