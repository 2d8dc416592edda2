"""When nobody may be declared dead."""

from __future__ import annotations

from typing import Any

import pytest

from worker.reaper import Reaper

LEASE = 5.0


class Server:
    """Redis, as far as INFO goes."""

    run_id, role = "first", "master"

    def info(self, section: str) -> dict[str, Any]:
        return {"run_id": self.run_id} if section == "server" else {"role": self.role}


class Fixture:
    """A reaper on a clock that is set by hand; `turn` lets time pass for both."""

    def __init__(self) -> None:
        self.server, self.now = Server(), 1000.0
        self.reaper = Reaper(self.server, LEASE, lambda: self.now)  # type: ignore[arg-type]

    def turn(self, seconds: float) -> bool:
        self.now += seconds
        return self.reaper.watch(int(self.now * 1000))


@pytest.fixture
def calm() -> Fixture:
    fixture = Fixture()
    assert fixture.turn(0), "the first sight of Redis is one"
    assert fixture.reaper.quiet
    for _ in range(12):
        assert not fixture.turn(1)
    assert not fixture.reaper.quiet
    return fixture


def test_two_leases_of_quiet_after_a_restart(calm: Fixture) -> None:
    calm.server.run_id = "second"
    assert calm.turn(1)
    assert calm.reaper.quiet and calm.reaper.replaced
    for _ in range(9):
        calm.turn(1)
        assert calm.reaper.quiet
    calm.turn(1)
    assert not calm.reaper.quiet


def test_quiet_after_a_change_of_role(calm: Fixture) -> None:
    calm.server.role = "slave"
    assert calm.turn(1)
    assert calm.reaper.quiet


def test_quiet_after_a_reconnect(calm: Fixture) -> None:
    calm.reaper.disturbed()
    assert calm.turn(1)
    assert calm.reaper.quiet and not calm.reaper.replaced, "it has what was written"


def test_quiet_after_having_been_away_without_noticing(calm: Fixture) -> None:
    assert not calm.turn(LEASE + 1)
    assert calm.reaper.quiet
