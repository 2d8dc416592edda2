"""What Celery is to be told of a job that has ended."""

from __future__ import annotations

from wire.errors import JobExpired, JobFailed, JobNotFound, SagradaError, ValidationError
from wire.record import Record
from worker.assignment import Broken, Completed, Verdict, Withdrawn
from worker.generation import Generation


def failure(error: str, error_type: str) -> SagradaError:
    """The exception that a producer sees; one that it can import."""
    return ValidationError(error) if error_type == "validation" else JobFailed(error)


def by_record(record: Record | None) -> Verdict:
    """What follows from a terminal record, or from its absence."""
    if record is None:
        return Broken(JobNotFound("the job is gone: it was deleted, or its result has expired"))
    match record.state:
        case "completed" if record.result:
            return Completed(record.result)
        case "cancelled":
            return Withdrawn()
        case "expired":
            return Broken(JobExpired("the job's deadline passed (`ttl`, or `start_ttl` before it was begun)"))
    return Broken(failure(record.error or "the job failed", record.error_type))


def by_end(generation: Generation) -> Verdict:
    """What follows from an end of our own making."""
    if result := generation.result:
        return Completed(result)
    end = generation.end
    error, error_type = getattr(end, "error", ""), getattr(end, "error_type", "")
    return Broken(failure(error, error_type))
