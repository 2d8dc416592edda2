"""A worker's seat: nothing without CARD, and with it the card, its lock and what the engine needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.cards import TWO_GPUS, nvidia_smi
from worker import card_lock
from worker.card import CardError
from worker.card_lock import CardTaken, holder
from worker.config import Config
from worker.discovery import find
from worker.launcher import bound_to
from worker.process import load_spec
from worker.seat import Seat, take

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="sets of cores need Linux")


def test_without_a_card_nothing_is_bound_and_nothing_held() -> None:
    config = Config(device="hpu")
    assert take(config) == Seat()
    assert load_spec(config, Seat()).device == "hpu"
    assert load_spec(Config(), Seat()).device == "cpu"  # what is installed here


def test_a_set_of_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_lock, "PATIENCE", 0.0)
    core = min(os.sched_getaffinity(0))
    config = Config(device="cpu", card=str(core), lock_dir=str(tmp_path))
    seat = take(config)
    assert (seat.device, seat.label, seat.cores) == ("cpu", f"cpu-{core}", frozenset({core}))
    assert seat.environment == {"OMP_NUM_THREADS": "1"}
    assert load_spec(config, seat).device == "cpu"
    with pytest.raises(CardTaken, match=f"process {os.getpid()} on"):
        take(config)
    for lock in seat.locks:
        lock.release()


def test_a_gpu_is_one_card_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_lock, "PATIENCE", 0.0)
    monkeypatch.setenv("PATH", str(tmp_path))
    nvidia_smi(tmp_path, TWO_GPUS)
    second = find("cuda", {}).cards[1]
    seat = take(Config(device="cuda", card="1", lock_dir=str(tmp_path)))
    assert seat.environment == {"CUDA_VISIBLE_DEVICES": second.uuid}
    assert seat.label == "cuda-1"
    with pytest.raises(CardTaken, match="The cuda card 1 is taken"):
        take(Config(device="cuda", card=second.uuid, lock_dir=str(tmp_path)))
    for lock in seat.locks:
        lock.release()
    with pytest.raises(CardError, match="There is no cuda card '2' here: there are 0,1."):
        take(Config(device="cuda", card="2", lock_dir=str(tmp_path)))
    assert holder(tmp_path, second) == ""


def test_a_thread_is_bound_only_while_it_starts_an_engine() -> None:
    before = os.sched_getaffinity(0)
    with bound_to({min(before)}):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before
    with bound_to(set()):
        assert os.sched_getaffinity(0) == before
