"""`sagrada worker --cards` as a process: one worker per card, none of which shares its card with another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker.watch import assert_unbroken, progress, submit
from tests.integration.worker.workers import Office, Worker
from tests.support.cards import TWO_GAUDI_3, Tool, first_on_path, hl_smi
from tests.support.processes import LONG, alive, children, until

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
HERE = os.uname().nodename


def variables(pid: int) -> dict[str, str]:
    """What a process was born with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


class Supervisors:
    """`sagrada worker --cards` over one Redis and one folder of locks."""

    def __init__(self, office: Office, folder: Path) -> None:
        self.office, self.locks = office, folder / "locks"
        self.locks.mkdir()
        self.tool: Tool = hl_smi(folder / "bin", TWO_GAUDI_3)
        self.path = first_on_path(folder / "bin")

    def start(self, cards: str, device: str = "hpu", *, step: float = 0.02, **env: str) -> Worker:
        settings = {"MODEL_ID": f"scripted?step={step}", "DEVICE": device, "LOCK_DIR": str(self.locks)}
        command = ["sagrada", "worker", "--cards", cards]
        worker = self.office.bare(command, **settings, PATH=self.path, **env)
        self.office.workers.append(worker)
        return worker

    def serving(self, count: int) -> dict[str, int]:
        """The names of so many workers' cards, and their processes, once they serve."""
        last = self.office.workers[-1]
        until(lambda: len(self.office.serving()) == count or last.process.poll() is not None)
        assert last.process.poll() is None, last.said
        return dict(self.nodes())

    def nodes(self) -> list[tuple[str, int]]:
        """Card and process of each that serves; of one that was killed, too, until its entry has expired."""
        nodes = [info.name.removeprefix("sagrada-").partition("@")[0] for info in self.office.serving()]
        return [(card, int(pid)) for card, _, pid in (node.rpartition("-") for node in nodes)]

    def followed(self, card: str, dead: int) -> int:
        """The process of the next worker on that card, once it serves."""
        return int(until(lambda: [pid for name, pid in self.nodes() if name == card and pid != dead])[0])

    def refused(self, worker: Worker, status: int) -> str:
        """What one says that ends with this status."""
        assert worker.process.wait(LONG) == status, worker.said
        return worker.said


@pytest.fixture
def supervisors(office: Office, tmp_path: Path) -> Iterator[Supervisors]:
    made = Supervisors(office, tmp_path)
    yield made
    for worker in office.workers:
        if worker.process.poll() is None:
            for _ in range(3):
                worker.process.send_signal(signal.SIGTERM)
            worker.process.wait(LONG)


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_each_core_has_one_worker_a_killed_one_is_followed_and_sigterm_drains(
    supervisors: Supervisors,
) -> None:
    office, names = supervisors.office, [f"cpu-{core}" for core in CORES[:2]]
    cards = "all" if len(CORES) == 2 else f"{CORES[0]},{CORES[1]}"
    supervisor = supervisors.start(cards, "cpu", SLOTS="1", LOOKAHEAD="0")
    workers = supervisors.serving(2)
    assert sorted(workers) == names
    for name, core in zip(names, CORES, strict=False):
        engine = children(workers[name])[0]
        assert os.sched_getaffinity(engine) == {core}
        assert variables(engine)["OMP_NUM_THREADS"] == "1"
    assert os.sched_getaffinity(workers[names[0]]) == set(CORES)

    os.kill(workers[names[1]], signal.SIGKILL)
    workers[names[1]] = supervisors.followed(names[1], workers[names[1]])
    assert f"worker {names[1]} was killed by SIGKILL: starting it again in 0.5 s." in supervisor.said
    assert (names[0], workers[names[0]]) in supervisors.nodes()

    jobs = submit(office, 2, 40)
    until(lambda: progress(office, jobs, 5))
    assert len({record.boot for id in jobs if (record := office.ledger.record(id))}) == 2
    engines = [children(pid)[0] for pid in workers.values()]
    assert supervisor.stop() == 0, supervisor.said
    assert_unbroken(office, jobs, 40)
    assert {office.state(id) for id in jobs} == {"completed"}
    until(lambda: office.registry.list() == [])
    assert not any(map(alive, [*workers.values(), *engines]))


@pytest.mark.full
def test_an_engine_is_bound_to_its_gaudi_and_its_worker_to_none(supervisors: Supervisors) -> None:
    supervisors.start("all")
    workers = supervisors.serving(2)
    assert workers.keys() == {"hpu-0", "hpu-1"}
    for id in (0, 1):
        born_with = variables(children(workers[f"hpu-{id}"])[0])
        assert (born_with["HLS_MODULE_ID"], born_with["HABANA_VISIBLE_MODULES"]) == (str(id), str(id))
        assert "HLS_MODULE_ID" not in variables(workers[f"hpu-{id}"])
    said = supervisors.refused(supervisors.start("1"), 1)
    supervisors.office.workers.pop()
    assert f"The hpu card 1 is taken by process {workers['hpu-1']} on {HERE}" in said


@pytest.mark.full
def test_a_lock_is_free_as_soon_as_its_worker_is_killed(supervisors: Supervisors) -> None:
    """Without a supervisor: a worker of its own, which another follows."""
    settings: dict[str, Any] = {"DEVICE": "hpu", "LOCK_DIR": str(supervisors.locks), "PATH": supervisors.path}
    office = supervisors.office
    first = office.start(CARD="0", **settings)
    second = office.bare(MODEL_ID="scripted", CARD="0", **settings)
    assert second.process.wait(LONG) == 1
    assert f"The hpu card 0 is taken by process {first.process.pid} on {HERE}" in second.said
    engine = first.engine()
    first.kill()
    office.start(CARD="0", **settings)
    until(lambda: not alive(engine))


@pytest.mark.full
def test_a_plain_celery_worker_takes_its_card_as_well(supervisors: Supervisors) -> None:
    settings: dict[str, Any] = {"DEVICE": "hpu", "LOCK_DIR": str(supervisors.locks), "PATH": supervisors.path}
    office, command = supervisors.office, ["celery", "-A", "worker.app", "worker", "-l", "INFO"]
    first = office.start(command, CARD="1", **settings)
    assert variables(first.engine())["HLS_MODULE_ID"] == "1"
    second = office.bare(command, MODEL_ID="scripted", CARD="1", **settings)
    assert second.process.wait(LONG) != 0
    assert f"The hpu card 1 is taken by process {first.process.pid} on {HERE}" in second.said


@pytest.mark.full
def test_a_second_interrupt_hands_over(supervisors: Supervisors) -> None:
    office = supervisors.office
    supervisor = supervisors.start("0,1", step=0.05, DRAIN_TIMEOUT="1000")
    workers = supervisors.serving(2)
    jobs = submit(office, 6, 200)
    until(lambda: progress(office, jobs, 3))
    supervisor.process.send_signal(signal.SIGINT)
    until(lambda: supervisor.said.count("Warm shutdown") == 2)
    supervisor.process.send_signal(signal.SIGINT)
    assert supervisor.process.wait(LONG) == 1
    assert "Handing over" in supervisor.said
    assert not any(map(alive, workers.values()))
    assert {office.state(id) for id in jobs} == {"in_progress"}
    assert office.unacked() == 0
    office.start(step=0.0)
    assert_unbroken(office, jobs, 200)


@pytest.mark.full
def test_a_third_signal_kills(supervisors: Supervisors) -> None:
    supervisor = supervisors.start("0")
    (worker,) = supervisors.serving(1).values()
    os.kill(worker, signal.SIGSTOP)
    supervisor.process.send_signal(signal.SIGTERM)
    until(lambda: "Draining" in supervisor.said)
    supervisor.process.send_signal(signal.SIGTERM)
    until(lambda: "Handing over" in supervisor.said)
    supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.process.wait(LONG) == 1
    assert not alive(worker)


@pytest.mark.full
def test_a_killed_supervisor_takes_its_workers_along_in_good_order(supervisors: Supervisors) -> None:
    office = supervisors.office
    supervisor = supervisors.start("0,1")
    workers = supervisors.serving(2)
    jobs = submit(office, 4, 60)
    until(lambda: progress(office, jobs, 5))
    supervisor.kill()
    assert_unbroken(office, jobs, 60)
    until(lambda: not any(map(alive, workers.values())))
    assert {office.state(id) for id in jobs} == {"completed"}


@pytest.mark.full
def test_cards_that_go_are_told_and_the_others_serve_on(supervisors: Supervisors) -> None:
    supervisor = supervisors.start("0,1")
    workers = supervisors.serving(2)
    supervisors.tool.says("0, 1, 0000:1a:00.0, 672 MiB, 31 C, HL-325L\n")
    os.kill(workers["hpu-0"], signal.SIGKILL)
    until(lambda: "There is no hpu card '0' here: there are 1." in supervisor.said)
    until(lambda: "worker hpu-0 ended with status 1: starting it again" in supervisor.said)
    assert alive(workers["hpu-1"]) and supervisor.process.poll() is None
    supervisors.tool.says(TWO_GAUDI_3)
    assert supervisors.followed("hpu-0", workers["hpu-0"]) != workers["hpu-0"]


@pytest.mark.full
def test_a_model_that_no_worker_can_load_ends_it(supervisors: Supervisors) -> None:
    supervisor = supervisors.office.bare(
        ["sagrada", "worker", "--cards", "0", "--model-id", "scripted?fail=too+large"],
        DEVICE="hpu", LOCK_DIR=str(supervisors.locks), PATH=supervisors.path,
    )  # fmt: skip
    said = supervisors.refused(supervisor, 1)
    assert "No worker stays up: each has ended 3 times in a row." in said
    assert said.count("ended with status 1") == 3


@pytest.mark.full
@pytest.mark.parametrize(
    ("cards", "env", "status", "sentence"),
    [
        ("0,9", {}, 1, "There is no hpu card '9' here: there are 0,1."),
        ("all", {"NUM_SHARD": "2"}, 2, "NUM_SHARD=2 is not usable yet"),
        ("all", {"CARD": "1"}, 2, "give one of the two"),
        ("all", {"SLOTS": "none"}, 2, "SLOTS='none' is not usable"),
        ("all", {"HABANA_VISIBLE_MODULES": "7"}, 1, "HABANA_VISIBLE_MODULES hides every hpu card."),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    supervisors: Supervisors, cards: str, env: dict[str, Any], status: int, sentence: str
) -> None:
    said = supervisors.refused(supervisors.start(cards, **env), status)
    assert sentence in said
    assert "Started" not in said
