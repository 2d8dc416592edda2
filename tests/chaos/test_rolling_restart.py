"""Every process of a fleet under load is restarted in good order: nothing is lost, no job begins again needlessly."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis import Redis

from models.step import Sampling
from sagrada.embedded import EmbeddedServer
from tests.chaos.clients import PATIENCE, PAUSE, Answers, Client, Wish, Wrong
from tests.chaos.storm import remains, undisturbed
from tests.chaos.test_processes import MODEL, ids_of, submit
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.sse import follow, frames, text_of
from wire import keys
from wire.ledger import Ledger
from worker.script import say

CLIENTS = 12


class Careful(Client):
    """A client to which a restart in good order owes everything: what was accepted is answered, bound or not."""

    def one(self) -> None:
        wish = self._dice.choice(list(self._answers))
        way = self._dice.choice(
            [self._stream, self._stream, self._poll, self._generate, self._generate_stream]
        )
        way(wish)
        self.counts[way.__name__.strip("_")] += 1

    def _generate(self, wish: Wish) -> None:
        with self._bound_to("/generate", wish) as response:
            said = msgspec.json.decode(response.read())
        self._check(wish, said)

    def _generate_stream(self, wish: Wish) -> None:
        with self._bound_to("/generate_stream", wish) as response:
            said = [event for _, event in frames(response)]
        self._check(wish, said[-1] if said else {})

    def _check(self, wish: Wish, said: dict[str, Any]) -> None:
        if said.get("generated_text") != text_of(self._answers[wish]):
            raise Wrong(f"{said}, not {text_of(self._answers[wish])!r}")

    @contextmanager
    def _bound_to(self, route: str, wish: Wish) -> Iterator[httpx.Response]:
        """A connection of its own on which the request was accepted; refused ones are tried again.

        One that was kept alive may be closed as it is used.
        """
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                with httpx.stream(
                    "POST", self._url() + route, json=wish.body(bound=True), timeout=60
                ) as response:
                    if response.status_code == 200:
                        yield response
                        return
                    if response.status_code != 503:
                        raise Wrong(f"{route}: {response.status_code} {response.read()!r}")
            except httpx.ConnectError:
                pass
            except httpx.TransportError as error:
                raise Wrong(f"{route} was cut off: {error!r}") from error
            time.sleep(PAUSE)
        raise Wrong(f"{route} was refused for {PATIENCE:g} s")


def restart_worker(fleet: Fleet, worker: subprocess.Popen[bytes], first: bool) -> None:
    """The replacement serves `first`, or comes after the old one has gone."""
    if first:
        fleet.start_worker()
        fleet.ready(len(fleet.workers))
    fleet.workers.remove(worker)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    if not first:
        fleet.start_worker()
        fleet.ready(len(fleet.workers))


def restart_gateway(fleet: Fleet, number: int) -> None:
    gateway = fleet.gateways[number]
    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait(60) == 0
    fleet.start_gateway(number)
    fleet.ready(len(fleet.workers))


def ended(redis: Redis) -> Counter[tuple[str, int]]:
    """How many jobs came to which state in which attempt."""
    ledger, found = Ledger(redis), Counter[tuple[str, int]]()
    for key in redis.scan_iter(keys.job_key("*"), count=1000):
        record = ledger.record(key.decode().partition("{")[2].partition("}")[0])
        if record:
            found[record.state, record.attempt] += 1
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A Redis that may be restarted."""
    made = EmbeddedServer(tmp_path / "redis")
    made.start()
    yield made
    made.stop()


@pytest.mark.full
def test_a_rolling_restart_loses_nothing_and_begins_no_job_again(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """Gateways, workers with the replacement before and after, Redis; the demo model in float64."""
    pytest.importorskip("torch", reason="the demo model runs on torch, which this environment lacks")
    (tmp_path / "logs").mkdir()
    env = {"DTYPE": "float64", "SLOTS": "16", "OMP_NUM_THREADS": "1"}
    with Fleet(server.url, tmp_path / "logs", model="demo", workers=2, gateways=2, env=env) as fleet:
        fleet.ready()
        with load(fleet, undisturbed(fleet, seed=1, count=80)) as counts:
            for number in range(2):
                restart_gateway(fleet, number)
            for index, worker in enumerate(list(fleet.workers)):
                restart_worker(fleet, worker, first=index % 2 == 0)
            server.stop()
            server.start()
            time.sleep(2)
        until(lambda: not remains(fleet.redis), 60, "every message to be acked")
        found = ended(fleet.redis)
        print(dict(counts), dict(found))
        assert set(found) == {("completed", 1)}
        assert found.total() >= sum(counts[way] for way in ("accepted", "generate", "generate_stream"))


@contextmanager
def load(fleet: Fleet, answers: Answers) -> Iterator[Counter[str]]:
    """Clients at work; afterwards each has had all its answers, and none was wrong."""
    over, counts, wrong = threading.Event(), Counter[str](), list[str]()

    def busy(number: int) -> None:
        client = Careful(fleet.addresses, answers, random.Random(number))
        while not over.is_set():
            try:
                client.one()
            except Wrong as error:
                wrong.append(str(error))
        client.close()
        counts.update(client.counts)

    with ThreadPoolExecutor(CLIENTS) as threads:
        running = [threads.submit(busy, number) for number in range(CLIENTS)]
        try:
            yield counts
        finally:
            over.set()
        for each in running:
            each.result()
    assert not wrong, wrong


def said(number: int, tokens: int) -> list[int]:
    """What the scripted model says to job `number`."""
    return say(f"prompt {number}".encode(), Sampling(do_sample=True, seed=number), tokens)


@pytest.mark.full
def test_what_fits_in_the_drain_ends_there_and_the_rest_is_handed_over_at_once(
    redis_url: str, tmp_path: Path
) -> None:
    """Short jobs end where they are; long ones go on elsewhere long before the lease of who had them ends."""
    lease, drain = 20.0, 6.0
    env = {"SERVED_MODEL_NAME": "scripted", "DRAIN_TIMEOUT": str(drain)}
    with Fleet(redis_url, tmp_path, model=MODEL, workers=1, lease=lease, env=env) as fleet:
        with ThreadPoolExecutor(20) as readers:
            fleet.ready()
            lengths = [50] * 10 + [800] * 6
            jobs = [submit(fleet, number, tokens) for number, tokens in enumerate(lengths)]
            streams = [readers.submit(follow, fleet.url, job) for job in jobs]
            first = fleet.workers[0]
            until(
                lambda: all(fleet.redis.xlen(keys.log_key(job)) > 3 for job in jobs), what="every job to run"
            )
            fleet.start_worker()
            first.send_signal(signal.SIGTERM)
            fleet.workers.remove(first)
            ledger = Ledger(fleet.redis)

            def attempts() -> list[int]:
                return [record.attempt for job in jobs if (record := ledger.record(job))]

            began = time.monotonic()
            until(
                lambda: attempts() == [1] * 10 + [2] * 6,
                drain + lease / 2,
                "the long ones to go on elsewhere",
            )
            took = time.monotonic() - began
            print(f"handed over and begun {took - drain:.2f} s after the drain's {drain:g} s")
            assert took >= drain - 1, "they were given their time first"
            assert first.wait(60) == 0
            ids = [ids_of(stream.result()) for stream in streams]
        assert ids == [said(number, tokens) for number, tokens in enumerate(lengths)]
        assert attempts() == [1] * 10 + [2] * 6
        until(lambda: not fleet.redis.zcard(keys.OPEN), 15, "nothing to be open")
