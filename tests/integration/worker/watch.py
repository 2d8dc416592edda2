"""Jobs whose every token is known beforehand, and what it means that none was lost or came twice."""

from __future__ import annotations

from celery.result import AsyncResult

from tests.integration.worker.workers import Office, scripted, text_of
from tests.support.processes import until
from wire.events import Done, Resumed
from wire.ledger import read_many


def assert_unbroken(office: Office, jobs: dict[str, int], tokens: int) -> None:
    """Every stream is whole and right, its result stored, its message acked."""
    for job_id, seed in jobs.items():
        events = [event for event in office.stream(job_id) if not isinstance(event, Resumed)]
        assert [event.seq for event in events] == list(range(tokens + 1))
        assert isinstance(events[-1], Done)
        assert text_of(events) == scripted(f"Prompt {seed}", tokens, seed=seed)
    until(lambda: office.unacked() == 0)
    results = [AsyncResult(job_id, app=office.plain) for job_id in jobs]
    until(lambda: all(result.successful() for result in results))


def submit(office: Office, count: int, tokens: int) -> dict[str, int]:
    """Job id → seed."""
    return {office.submit(f"Prompt {seed}", tokens, seed=seed): seed for seed in range(count)}


def progress(office: Office, jobs: dict[str, int], tokens: int) -> bool:
    """Whether each has more than so many."""
    return all(len(events) > tokens for events in read_many(office.redis, dict.fromkeys(jobs, -1)).values())
