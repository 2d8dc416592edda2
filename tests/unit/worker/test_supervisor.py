"""The engine's life, with an engine that is only a socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from worker import supervisor as module
from worker.link import FromEngine, Link, LoadFailed, Progress, Ready, ToEngine
from worker.supervisor import Died, GaveUp, Supervisor

READY = Ready(
    model_id="m", revision="", folder="", device="cpu", dtype="float32", vocab_size=9, eos_ids=[2], slots=4,
    block_size=16, num_blocks=9, max_input_tokens=8, max_total_tokens=9, plan_hash="", buckets=1, warm_up_seconds=0,
)  # fmt: skip


class Beat:
    late = 0.0

    def overdue(self) -> float:
        return self.late


class Socket:
    """What EngineProcess is to the supervisor."""

    pid = 0

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.link: Link[FromEngine] = Link.of_parent(ours)
        self.child: Link[ToEngine] = Link.of_engine(theirs)
        self.beat = Beat()
        self.killed = False

    def kill(self) -> int:
        self.killed = True
        return -9

    def stop(self, grace: float) -> None:
        self.killed = True

    def close(self) -> None:
        self.link.close()
        self.child.close()


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def made() -> tuple[Supervisor, list[Socket]]:
    engines: list[Socket] = []

    def start() -> Any:
        engines.append(Socket())
        return engines[-1]

    return Supervisor(start), engines


def ready(supervisor: Supervisor, engines: list[Socket]) -> None:
    supervisor.turn()
    engines[-1].child.send(READY)
    assert supervisor.turn() == [READY]


def test_an_engine_is_started_and_serves(clock: Clock) -> None:
    supervisor, engines = made()
    supervisor.turn()
    engines[0].child.send(Progress(stage="weights", done=1, total=4))
    supervisor.turn()
    assert (supervisor.state, supervisor.stage, supervisor.progress) == ("loading", "weights", 0.25)
    engines[0].child.send(READY)
    supervisor.turn()
    assert (supervisor.state, supervisor.restarts, len(engines)) == ("serving", 0, 1)
    supervisor.stop(0)
    assert engines[0].killed


def test_what_is_warmed_up_beside_serving_is_told_until_it_is_there(clock: Clock) -> None:
    supervisor, engines = made()
    supervisor.turn()
    for done in (16, 17):
        engines[0].child.send(Progress(stage="warm-up", done=done, total=20))
        if done == 16:
            engines[0].child.send(READY)
        supervisor.turn()
        supervisor.turn()
        assert (supervisor.state, supervisor.stage) == ("serving", "warm-up")
        assert supervisor.progress == done / 20
    engines[0].child.send(Progress(stage="warm-up", done=20, total=20))
    supervisor.turn()
    assert (supervisor.state, supervisor.stage, supervisor.progress) == ("serving", "", 1.0)
    supervisor.stop(0)


def silent(engine: Socket) -> None:
    engine.beat.late = 2.0


def gone(engine: Socket) -> None:
    engine.child.close()


@pytest.mark.parametrize(("how", "words"), [(silent, "hung"), (gone, "SIGKILL")])
def test_a_dead_or_hung_engine_is_replaced_after_a_pause(
    clock: Clock, how: Callable[[Socket], None], words: str
) -> None:
    supervisor, engines = made()
    ready(supervisor, engines)
    how(engines[0])
    (died,) = supervisor.turn()
    assert isinstance(died, Died)
    assert words in died.reason
    assert engines[0].killed
    assert (supervisor.state, supervisor.fileno()) == ("loading", None)
    supervisor.turn()
    assert len(engines) == 1
    clock.now += supervisor.wait
    supervisor.turn()
    assert (len(engines), supervisor.restarts) == (2, 1)
    supervisor.stop(0)
    engines[0].close()


def test_pauses_grow_while_engines_die_young_and_shrink_after_long_service(clock: Clock) -> None:
    supervisor, engines = made()
    pauses = []
    for _ in range(12):
        ready(supervisor, engines)
        gone(engines[-1])
        supervisor.turn()
        pauses.append(round(supervisor.wait, 3))
        clock.now += supervisor.wait
    assert pauses == sorted(pauses)
    assert pauses[-1] == module.LONGEST_PAUSE
    ready(supervisor, engines)
    clock.now += module.STEADY + 1
    gone(engines[-1])
    supervisor.turn()
    assert round(supervisor.wait, 3) == module.FIRST_PAUSE
    for engine in engines:
        engine.close()


def test_a_model_that_cannot_be_loaded_is_given_up(clock: Clock) -> None:
    supervisor, engines = made()
    supervisor.turn()
    engines[0].child.send(LoadFailed(error="no such folder"))
    assert supervisor.turn() == [GaveUp("no such folder")]
    assert (supervisor.state, supervisor.turn(), len(engines)) == ("failed", [], 1)
    supervisor.stop(0)


def test_engines_that_never_get_ready_are_given_up(clock: Clock) -> None:
    supervisor, engines = made()
    heard = []
    for _ in range(module.MOST_FAILED_STARTS):
        supervisor.turn()
        gone(engines[-1])
        heard += supervisor.turn()
        clock.now += module.LONGEST_PAUSE
    assert [type(each) for each in heard] == [Died, Died, GaveUp]
    assert supervisor.turn() == []
    assert len(engines) == module.MOST_FAILED_STARTS
