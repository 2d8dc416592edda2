"""Jobs whose every token is known beforehand, and what it means that none was lost or came twice."""

from __future__ import annotations

from tests.integration.worker.workers import Office, scripted, text_of, until
from wire.events import Done, Resumed
from wire.ledger import read_many


def assert_unbroken(office: Office, jobs: dict[str, int], tokens: int) -> None:
    """Every stream is whole and right; so is the log that a late reader gets."""
    for job_id, seed in jobs.items():
        events = [event for event in office.stream(job_id) if not isinstance(event, Resumed)]
        assert [event.seq for event in events] == list(range(tokens + 1))
        assert isinstance(events[-1], Done)
        assert text_of(events) == scripted(f"Prompt {seed}", tokens, seed=seed)
    until(lambda: office.unacked() == 0)


def submit(office: Office, count: int, tokens: int) -> dict[str, int]:
    """Job id → seed."""
    return {office.submit(f"Prompt {seed}", tokens, seed=seed): seed for seed in range(count)}


def progress(office: Office, jobs: dict[str, int], tokens: int) -> bool:
    """Whether each has more than so many."""
    return all(len(events) > tokens for events in read_many(office.redis, dict.fromkeys(jobs, -1)).values())
