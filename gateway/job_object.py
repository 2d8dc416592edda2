"""The job as the API shows it."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.errors import EXPIRED
from wire.job import Completion, FinishReason, State, Usage
from wire.record import Record


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a completed job produced."""

    text: str
    """Of the first choice, as the next two."""
    finish_reason: FinishReason
    seed: int
    choices: tuple[Completion, ...] | UnsetType = UNSET
    """All of them; absent where there is one."""


class JobError(msgspec.Struct, frozen=True):
    """Why a job failed or expired."""

    message: str
    """A sentence."""
    type: str
    """TGI's word for its kind, or `expired`."""


class JobUrls(msgspec.Struct, frozen=True):
    """Where to go on."""

    get: str
    stream: str
    cancel: str


class JobObject(msgspec.Struct, frozen=True, kw_only=True):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    status: State
    model: str
    """Empty where the job was refused before it became one."""
    queue_position: int | None
    """From 1, of the jobs that wait for the same model; null once it was taken."""
    estimated_wait: float | None
    """Seconds until it is taken; null where that cannot be told."""
    created_at: float | None
    """Unix seconds, as the next two; null: not yet."""
    started_at: float | None
    completed_at: float | None
    result: JobResult | None
    usage: Usage | None
    """Counted when the job ends."""
    error: JobError | None
    urls: JobUrls


def job_object(job_id: str, record: Record, position: int | None, wait: float | None) -> JobObject:
    """The job out of its record; `wait`: seconds until it is taken, if that can be told."""
    url = f"/jobs/{job_id}"
    return JobObject(
        id=job_id,
        status=record.state,
        model=record.model,
        queue_position=position,
        estimated_wait=wait,
        created_at=_seconds(record.created),
        started_at=_seconds(record.started),
        completed_at=_seconds(record.finished),
        result=_result(record),
        usage=record.usage if record.terminal else None,
        error=_error(record),
        urls=JobUrls(get=url, stream=f"{url}/stream", cancel=f"{url}/cancel"),
    )


def _seconds(ms: int) -> float | None:
    """Redis ms as Unix seconds; None for never."""
    return ms / 1000 if ms else None


def _result(record: Record) -> JobResult | None:
    found = record.result
    if found is None:
        return None
    choices = found.choices or UNSET
    return JobResult(text=found.text, finish_reason=found.finish_reason, seed=found.seed, choices=choices)


def _error(record: Record) -> JobError | None:
    if record.state == "failed":
        return JobError(record.error, record.error_type)
    return JobError(EXPIRED, "expired") if record.state == "expired" else None
