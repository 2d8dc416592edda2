"""One holder per card: across processes, users and names of the card, and for not a moment longer than it lives."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.processes import alive, children, until
from worker import card_lock
from worker.card import Card, CardError, Group
from worker.card_lock import CardLock, CardTaken, default_folder, holder
from worker.seat import lock

ROOT = Path(__file__).parents[3]
CARD = Card(kind="hpu", id=3)
HERE = os.uname().nodename

HOLD = """
import subprocess, sys
from pathlib import Path
from worker.card import Card
from worker.card_lock import CardLock
lock = CardLock(Path(sys.argv[1]), Card(kind="hpu", id=3))
subprocess.Popen(["sleep", "1000"], close_fds=False)  # a child that outlives it and would keep all it inherits
print("held", flush=True)
sys.stdin.read()
"""


def test_a_card_has_one_holder_who_is_named(tmp_path: Path) -> None:
    assert holder(tmp_path, CARD) == ""
    held = CardLock(tmp_path, CARD)
    assert holder(tmp_path, CARD) == f"{os.getpid()} on {HERE}"
    with pytest.raises(CardTaken) as refused:
        CardLock(tmp_path, CARD, patience=0.0)
    assert str(refused.value) == (
        f"The hpu card 3 is taken by process {os.getpid()} on {HERE}: stop that worker, or choose another with --cards."
    )
    CardLock(tmp_path, Card(kind="hpu", id=2)).release()
    CardLock(tmp_path, Card(kind="cpu", id=3)).release()
    held.release()
    assert holder(tmp_path, CARD) == ""
    CardLock(tmp_path, CARD, patience=0.0).release()


def test_a_killed_holder_s_lock_is_free_at_once_whatever_it_left_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        (heir,) = children(process.pid)
        assert holder(tmp_path, CARD) == f"{process.pid} on {HERE}"
        with pytest.raises(CardTaken, match=f"process {process.pid} on"):
            CardLock(tmp_path, CARD, patience=0.0)
        process.kill()
        process.wait()
        assert alive(heir)
        CardLock(tmp_path, CARD, patience=0.0).release()
        os.kill(heir, 9)
    until(lambda: not alive(heir))


def test_who_only_looks_does_not_make_another_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(card_lock, "_try", lambda fd: next(answers))
    CardLock(tmp_path, CARD).release()
    assert list(answers) == []


def test_a_group_is_held_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_lock, "PATIENCE", 0.0)
    group = Group(tuple(Card(kind="cpu", id=core) for core in range(4)))
    third = CardLock(tmp_path, group.cards[2])
    with pytest.raises(CardTaken, match="The core 2 is taken"):
        lock(group, tmp_path)
    assert holder(tmp_path, group.cards[0]) == ""
    third.release()
    for held in lock(group, tmp_path):
        held.release()


def test_other_users_find_it_taken_and_not_forbidden(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        CardLock(tmp_path, CARD).release()
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="cannot be opened: .*the same LOCK_DIR"):
        CardLock(tmp_path / "nowhere", CARD)
    (tmp_path / "sagrada-card-hpu-3.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CardError, match="cannot be opened"):
        CardLock(tmp_path, CARD)
    assert not (tmp_path / "elsewhere").exists()


def test_the_folder_is_one_that_all_users_may_write_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not one that this user alone may: another user's worker would look elsewhere."""
    own, shared = tmp_path / "own", tmp_path / "shared"
    for folder, mode in ((own, 0o755), (shared, 0o1777)):
        folder.mkdir()
        folder.chmod(mode)
    monkeypatch.setattr(card_lock, "FOLDERS", (tmp_path / "nowhere", own, shared))
    assert default_folder() == shared
    monkeypatch.setattr(card_lock, "FOLDERS", (own,))
    assert default_folder() == Path(tempfile.gettempdir())
