"""Whom to tell when: each that is refused gets a moment of its own."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from gateway import waiting_room
from gateway.waiting_room import LONGEST, UNKNOWN, WaitingRoom
from wire.errors import QueueFull


class Queue:
    """As many wait, and are taken, as the test says."""

    waiting, taken = 10, 2.0

    def __init__(self, *_: Any) -> None: ...

    def size(self) -> int:
        return self.waiting

    def pace(self) -> float | None:
        return self.taken or None


class Gateways:
    """As many live as the test says."""

    count = 1

    def __init__(self, *_: Any) -> None: ...

    def live(self) -> set[str]:
        return {str(n) for n in range(self.count)}


class Clock:
    """Seconds, as the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> WaitingRoom:
    monkeypatch.setattr(waiting_room, "TaskQueue", Queue)
    monkeypatch.setattr(waiting_room, "Gateways", Gateways)
    return WaitingRoom(Redis(), 10, clock)


def refused(room: WaitingRoom) -> int:
    with pytest.raises(QueueFull, match="10 jobs wait already; try again in") as caught:
        room.check("q")
    return caught.value.retry_after


def test_those_who_are_refused_come_back_one_after_another(room: WaitingRoom, clock: Clock) -> None:
    assert [refused(room) for _ in range(6)] == [1, 1, 2, 2, 3, 3], "two are taken each second"
    clock.now += 2
    assert refused(room) == 2, "the moments of four have passed"


def test_gateways_share_the_moments(room: WaitingRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gateways, "count", 4)
    assert [refused(room) for _ in range(3)] == [2, 4, 6]


def test_a_queue_that_stands_still_is_asked_again_soon(
    room: WaitingRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Queue, "taken", 0.0)
    assert refused(room) == UNKNOWN
    monkeypatch.setattr(Queue, "taken", 0.0001)
    assert refused(room) == LONGEST


def test_room_forgets_the_moments(room: WaitingRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        refused(room)
    monkeypatch.setattr(Queue, "waiting", 9)
    room.check("q")
    monkeypatch.setattr(Queue, "waiting", 10)
    assert refused(room) == 1
