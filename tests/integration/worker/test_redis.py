"""Redis is the only thing shared: its connections may break and it may go away; the jobs go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagrada.embedded import EmbeddedServer
from tests.integration.worker.watch import assert_unbroken, progress, submit
from tests.integration.worker.workers import Office
from tests.support.processes import alive, until
from tests.support.proxy import Proxy
from tests.support.servers import serving
from worker.desk import AHEAD


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with serving(tmp_path / "redis", aof=True) as server:
        yield server


def test_broken_connections_begin_no_attempt(office: Office) -> None:
    worker = office.start(step=0.02)
    jobs = submit(office, 16, 120)
    until(lambda: progress(office, jobs, 3))
    for _ in range(10):
        office.redis.client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.1)
    assert_unbroken(office, jobs, 120)
    assert {record.attempt for id in jobs if (record := office.ledger.record(id))} == {1}
    assert worker.process.poll() is None


def test_redis_away_for_several_leases_restarts_no_engine(own_server: EmbeddedServer, tmp_path: Path) -> None:
    office = Office(own_server.url, tmp_path)
    try:
        worker = office.start(step=0.02, LEASE_SECONDS="1")
        jobs = submit(office, 8, 200)
        until(lambda: progress(office, jobs, 5))
        engine = worker.engine()
        own_server.stop()
        time.sleep(3.5)
        own_server.start()
        assert_unbroken(office, jobs, 200)
        assert alive(engine)
        assert {record.attempt for id in jobs if (record := office.ledger.record(id))} == {1}
    finally:
        office.close()


@pytest.mark.full
def test_a_redis_that_stalls_holds_its_jobs_back_and_loses_nothing(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    """The engine makes a token each millisecond; the stall is longer than the lease, and than AHEAD of them take."""
    office = Office(own_server.url, tmp_path)
    try:
        with Proxy(own_server.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            office.start(step=0.001, LEASE_SECONDS="2", SLOTS="8", REDIS_URL=url)
            jobs = submit(office, 8, 2000)
            until(lambda: progress(office, jobs, 5))
            for stalled in (0.5, 4.0):
                proxy.stall()
                time.sleep(stalled)
                proxy.go_on()
                time.sleep(0.5)
            assert_unbroken(office, jobs, 2000)
            until(lambda: [AHEAD // 2 < info.most_unlogged <= AHEAD for info in office.serving()] == [True])
        assert {record.attempt for id in jobs if (record := office.ledger.record(id))} == {1}
    finally:
        office.close()
