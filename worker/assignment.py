"""A job that this process was given, and what is to be said of it to Celery in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from wire.job import Job, Result
from worker.generation import Generation


@dataclass(frozen=True, slots=True)
class Completed:
    """Store the result, ack."""

    result: Result


@dataclass(frozen=True, slots=True)
class Broken:
    """Store the exception as the task's failure, ack."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Somebody cancelled it: REVOKED, ack."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Celery's hard time limit passed: FAILURE, ack."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Settled:
    """Another attempt speaks for it, or Celery has spoken already: say nothing, ack."""


@dataclass(frozen=True, slots=True)
class Returned:
    """This worker cannot run it, or not now: back into the queue."""


@dataclass(frozen=True, slots=True)
class Left:
    """Handed over, or somebody else's by now: neither say nor ack anything."""


Verdict: TypeAlias = Completed | Broken | Withdrawn | TimedOut | Settled | Returned | Left


@dataclass(eq=False, slots=True, kw_only=True)
class Assignment:
    """Made by the pool; from then on the publisher's thread alone changes it."""

    job_id: str
    settle: Callable[[Verdict], None]
    """Called once, from the publisher's thread, when the ledger knows all."""
    body: tuple[Any, Any] | None = None
    """(args, kwargs) of a message that carries its request; None: the record has the job."""
    soft_limit: float | None = None
    """Celery's time limits, in seconds from `since`."""
    hard_limit: float | None = None
    since: float = field(default_factory=time.monotonic)

    job: Job | None = None
    """What `body` asks for, once it is read."""
    claim: str = ""
    """The running claim's own id: a repetition after a lost reply is known by it."""
    generation: Generation | None = None
    """Present from the claim on."""
    begun: bool = False
    """Whether this process has claimed it."""
    numbers: dict[int, int] = field(default_factory=dict)
    """Of its sequences in the engine: number there → choice."""
    occupies: bool = True
    """Whether it takes up room: until it has left the engine."""
    suspect: bool = False
    """It was in an engine that died, here or elsewhere, and has added no token since."""
    alone: bool = False
    """A suspect that had added nothing in that engine, either: it is tried with no other."""
    connection: int = 0
    """The number of the connection on which its log was last seen to be whole."""
    looked: int = -1
    """Entries that the log held at the last tick: unchanged at the next, its record is looked at."""
    verdict: Verdict | None = None
    """What to say instead of what follows from the record."""
