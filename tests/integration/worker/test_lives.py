"""What is promised when something dies, hangs or is told to go: no token lost, none twice, nobody left behind."""

from __future__ import annotations

import os
import signal
import time

import pytest
from celery.result import AsyncResult

from tests.integration.worker.watch import assert_unbroken, progress, submit
from tests.integration.worker.workers import MODEL, Office, scripted
from tests.support.processes import LONG, alive, children, until
from wire.errors import JobFailed
from wire.events import Failed, Token


def test_a_killed_engine_costs_no_token_and_no_lease(office: Office) -> None:
    worker = office.start(step=0.02)
    jobs = submit(office, 6, 150)
    until(lambda: progress(office, jobs, 5))
    boot, engine = office.serving()[0].boot, worker.engine()
    os.kill(engine, signal.SIGKILL)
    assert_unbroken(office, jobs, 150)
    assert [info.boot for info in office.serving()] == [boot]
    assert {record.attempt for id in jobs if (record := office.ledger.record(id))} == {2}
    assert not alive(engine)


def test_a_hung_engine_is_killed_and_its_jobs_go_on(office: Office) -> None:
    office.start(step=0.02, ENGINE_PATIENCE="1")
    jobs = submit(office, 3, 100)
    until(lambda: progress(office, jobs, 5))
    hanging = office.submit("!hang@2", 20)
    assert_unbroken(office, jobs, 100)
    last = office.stream(hanging)[-1]
    assert isinstance(last, Failed)
    assert "will not be tried again" in last.error


def test_a_job_that_kills_engines_is_found_and_bystanders_are_not_blamed(office: Office) -> None:
    office.start(step=0.01)
    jobs = submit(office, 4, 120)
    poison = office.plain.send_task(
        "sagrada.generate",
        kwargs={"inputs": "!exit@2", "parameters": {"max_new_tokens": 9}},
        queue=f"sagrada.{MODEL}",
    )
    late = {office.submit(f"Prompt {seed}", 120, seed=seed): seed for seed in range(4, 8)}
    with pytest.raises(JobFailed, match="will not be tried again"):
        poison.get(timeout=LONG)
    assert_unbroken(office, jobs | late, 120)


def test_a_killed_worker_s_jobs_go_on_elsewhere(office: Office) -> None:
    first = office.start(step=0.02)
    jobs = submit(office, 6, 150)
    until(lambda: progress(office, jobs, 5))
    engine = first.engine()
    office.start(step=0.02)
    first.kill()
    assert_unbroken(office, jobs, 150)
    until(lambda: not alive(engine))


def test_sigterm_lets_running_jobs_end(office: Office) -> None:
    worker = office.start(step=0.01)
    jobs = submit(office, 4, 100)
    until(lambda: progress(office, jobs, 5))
    engine = worker.engine()
    assert worker.stop() == 0
    assert {office.state(id) for id in jobs} == {"completed"}
    assert all(AsyncResult(id, app=office.plain).successful() for id in jobs)
    assert_unbroken(office, jobs, 100)
    assert not alive(engine)
    assert office.registry.list() == []


def test_what_does_not_end_in_time_is_handed_over_without_blame(office: Office) -> None:
    worker = office.start(step=0.02, DRAIN_TIMEOUT="0.5")
    jobs = submit(office, 4, 200)
    until(lambda: progress(office, jobs, 5))
    assert worker.stop() == 0
    assert office.unacked() == 0
    assert office.queue.size() == 4
    office.start(step=0.0)
    assert_unbroken(office, jobs, 200)
    assert {record.stalls for id in jobs if (record := office.ledger.record(id))} == {0}


def test_a_second_interrupt_does_not_wait(office: Office) -> None:
    worker = office.start(step=0.05)
    jobs = submit(office, 4, 100)
    until(lambda: progress(office, jobs, 3))
    engine = worker.engine()
    worker.process.send_signal(signal.SIGINT)
    until(lambda: "Warm shutdown" in worker.said or "initiate cold shutdown" in worker.said)
    time.sleep(0.5)
    worker.process.send_signal(signal.SIGINT)
    worker.process.wait(LONG)
    assert not alive(engine)
    assert {office.state(id) for id in jobs} == {"in_progress"}
    office.start(step=0.0)
    assert_unbroken(office, jobs, 100)


def test_a_model_that_cannot_be_loaded_is_told_and_holds_no_job(office: Office) -> None:
    job_id = office.submit("Hello", 5)
    office.workers.append(office.bare(MODEL_ID="scripted?fail=no such card"))
    worker = office.workers[0]
    assert worker.process.wait(LONG) == 1
    (info,) = office.registry.list()
    assert info.state == "failed"
    assert "no such card" in info.error
    assert office.queue.position(job_id) == 1
    assert office.unacked() == 0
    assert children(worker.process.pid) == []


def test_a_plain_celery_worker_serves_as_well(office: Office) -> None:
    office.start(["celery", "-A", "worker.app", "worker", "-l", "INFO"])
    result = office.plain.send_task(
        "sagrada.generate",
        kwargs={"inputs": "Hello", "parameters": {"max_new_tokens": 9, "seed": 1}},
        queue=f"sagrada.{MODEL}",
    )
    assert result.get(timeout=LONG)["text"] == scripted("Hello", 9)
    assert sum(isinstance(event, Token) for event in office.stream(result.id)) == 9


def test_a_worker_that_lost_its_lease_goes_on_under_another_id(office: Office) -> None:
    frozen = office.start(step=0.02)
    jobs = submit(office, 6, 200)
    until(lambda: progress(office, jobs, 5))
    boot, engine = office.serving()[0].boot, frozen.engine()
    frozen.process.send_signal(signal.SIGSTOP)
    office.start(step=0.02)
    until(lambda: all((record := office.ledger.record(id)) and record.boot != boot for id in jobs))
    frozen.process.send_signal(signal.SIGCONT)
    assert_unbroken(office, jobs, 200)
    until(lambda: len(office.serving()) == 2)
    assert boot not in {info.boot for info in office.serving()}
    assert frozen.engine() == engine
    assert alive(engine)
