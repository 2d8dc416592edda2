"""The supervisor of several workers, with small stand-ins for them: what it starts again, and how it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagrada import cards as module
from sagrada import child as child_module
from sagrada.cards import Workers
from sagrada.child import Child
from sagrada.told import Told
from tests.support.processes import LONG, until


class Watched:
    """Workers in a thread of their own: signals are told by hand."""

    def __init__(self, folder: Path, *scripts: str) -> None:
        self.told, self.said = Told(), list[str]()
        env = {"HERE": str(folder), "PATH": os.environ.get("PATH", "")}
        children = [Child(f"worker {n}", ["sh", "-c", script], env) for n, script in enumerate(scripts)]
        workers = Workers(children, 0.1, self.told, self.said.append)
        self._thread = threading.Thread(target=lambda: self._codes.append(workers.run()))
        self._codes: list[int] = []
        self._thread.start()

    def signal(self) -> None:
        self.told.hear(0, None)

    def code(self) -> int:
        self._thread.join(LONG)
        return self._codes[0]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses; and SIGQUIT as it was: a shell can trap no signal that is ignored when it begins, as after `&`."""
    monkeypatch.setattr(child_module, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(module, "TICK", 0.01)
    before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGQUIT, before)


def test_a_refused_setting_ends_them_all(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "sleep 1000", "exit 2")
    assert watched.code() == 2
    assert watched.said[1:2] == ["worker 1 refuses its settings."]
    assert "worker 0 was killed by SIGTERM." in watched.said


def test_when_none_stays_up_it_ends(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "exit 1", "exit 1")
    assert watched.code() == 1
    assert "No worker stays up: each has ended 3 times in a row." in watched.said


def test_one_that_stays_up_is_enough_and_the_others_are_tried_again(tmp_path: Path) -> None:
    fails_four_times = "echo x >> $HERE/lives; [ $(wc -l < $HERE/lives) -le 4 ] && exit 1; exec sleep 1000"
    watched = Watched(tmp_path, "sleep 1000", fails_four_times)
    until(lambda: "worker 1 is started again (4)." in watched.said)
    watched.signal()
    assert watched.code() == 0


def test_those_that_are_killed_have_not_failed(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "kill -9 $$")
    until(lambda: "worker 0 is started again (3)." in watched.said)
    watched.signal()
    watched.code()
    assert not any("No worker stays up" in text for text in watched.said)


def test_one_that_fails_while_it_drains_is_told_by_the_exit_code(tmp_path: Path) -> None:
    watched = Watched(
        tmp_path, "trap 'exit 3' TERM; touch $HERE/up; while :; do sleep 0.01; done", "sleep 1000"
    )
    until((tmp_path / "up").exists)
    watched.signal()
    assert watched.code() == 1
    assert "worker 0 ended with status 3." in watched.said


@pytest.mark.parametrize(
    ("at_quit", "third", "end"),
    [("exit 0", False, "ended with status 0."), ("", True, "was killed by SIGKILL.")],
)
def test_the_second_signal_hands_over_and_the_third_kills(
    tmp_path: Path, at_quit: str, third: bool, end: str
) -> None:
    """Neither is a good end, though who hands over ends with status 0."""
    script = f"trap '' TERM; trap '{at_quit}' QUIT; touch $HERE/up; while :; do sleep 0.01; done"
    watched = Watched(tmp_path, script)
    until((tmp_path / "up").exists)
    watched.signal()
    until(lambda: any("Draining" in text for text in watched.said))
    watched.signal()
    until(lambda: any("Handing over" in text for text in watched.said))
    if third:
        watched.signal()
    assert watched.code() == 1
    assert watched.said[-1] == f"worker 0 {end}"


def test_one_that_takes_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.1)
    watched = Watched(tmp_path, "trap '' TERM; touch $HERE/up; while :; do sleep 0.01; done")
    until((tmp_path / "up").exists)
    watched.signal()
    assert watched.code() == 1
    assert watched.said[-1] == "worker 0 was killed by SIGKILL."
