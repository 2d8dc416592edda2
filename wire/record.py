"""A job's record: one Redis hash, `sagrada:{<id>}:job`, with an expiry only once it is terminal.

| field             | holds                                                        | written by            |
|-------------------|--------------------------------------------------------------|-----------------------|
| v                 | wire version of `job`                                        | submit, claim         |
| job               | the Job in its envelope; empty: refused before it became one | submit, claim         |
| model             | the served model's name                                      | submit, claim         |
| digest            | of the request's body, for its Idempotency-Key; may be empty | submit                |
| queue             | the Celery queue it was sent to                              | submit, claim         |
| state             | wire.job.State                                               | all                   |
| attempt           | the newest attempt; 0 before the first claim                 | claim, stop           |
| boot              | who runs or ran it; empty: nobody                            | claim, release        |
| claim             | the claim's own id: a repeated claim is known by it          | claim                 |
| mark              | tokens at the last claim; absent after a release             | claim, release        |
| stalls            | attempts in a row that added no token                        | claim, release        |
| suspect           | tokens when an engine died under it; no longer if it added   | release               |
| prompt_tokens     | tokens of the prompt; 0 until counted                        | submit, count, finish |
| completion_tokens | tokens generated                                             | finish, stop          |
| created           | Redis time in ms, as the next three; absent: not yet         | submit, claim         |
| started           | of the first claim                                           | claim                 |
| finished          |                                                              | finish, stop          |
| deadline          | created + ttl                                                | submit, claim         |
| start_by          | created + start_ttl; 0: a start is not bounded               | submit, claim         |
| askers            | how often it was submitted, under one Idempotency-Key        | submit, claim         |
| gateway           | the gateway process whose connection it is bound to, or ''   | submit, claim         |
| tenant            | whose it is: nobody else's key finds it; '': a producer's    | submit, claim         |
| result            | wire.job.Result as msgpack, of a completed job               | finish                |
| error, error_type | a sentence and TGI's word for its kind, of a failed job      | finish, stop          |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from wire.codec import decode_result
from wire.job import TERMINAL, Result, State, Usage

FIELDS = (
    "model",
    "digest",
    "queue",
    "state",
    "attempt",
    "boot",
    "stalls",
    "prompt_tokens",
    "completion_tokens",
    "created",
    "started",
    "finished",
    "deadline",
    "start_by",
    "gateway",
    "tenant",
    "result",
    "error",
    "error_type",
)
"""What is read of a record: all but the job itself, which may be large."""


@dataclass(frozen=True, slots=True)
class Record:
    """What Redis knows of a job, the prompt aside."""

    model: str
    digest: str
    queue: str
    state: State
    attempt: int
    boot: str
    stalls: int
    prompt_tokens: int
    completion_tokens: int
    created: int
    """Redis time in ms, as the three below; 0: not yet."""
    started: int
    finished: int
    deadline: int
    result: Result | None
    error: str
    error_type: str
    start_by: int = 0
    """0: a start is not bounded."""
    gateway: str = ""
    tenant: str = ""

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state in TERMINAL

    @property
    def limit(self) -> int:
        """Redis ms at which it expires: its deadline or, until it was begun, the one for its start if sooner."""
        return self.deadline if self.started or not self.start_by else min(self.start_by, self.deadline)

    @property
    def usage(self) -> Usage:
        """The tokens counted when it ended."""
        return Usage.of(self.prompt_tokens, self.completion_tokens)


def parse_record(values: Sequence[bytes | None]) -> Record | None:
    """The record out of an HMGET of FIELDS; None if there is none."""
    texts = {name: value or b"" for name, value in zip(FIELDS, values, strict=True)}
    if not texts["state"]:
        return None
    text = {name: texts[name].decode() for name in FIELDS if name != "result"}
    return Record(
        model=text["model"],
        digest=text["digest"],
        queue=text["queue"],
        state=cast(State, text["state"]),
        attempt=int(text["attempt"]),
        boot=text["boot"],
        stalls=int(text["stalls"] or 0),
        prompt_tokens=int(text["prompt_tokens"] or 0),
        completion_tokens=int(text["completion_tokens"] or 0),
        created=int(text["created"] or 0),
        started=int(text["started"] or 0),
        finished=int(text["finished"] or 0),
        deadline=int(text["deadline"] or 0),
        start_by=int(text["start_by"] or 0),
        gateway=text["gateway"],
        tenant=text["tenant"],
        result=decode_result(texts["result"]) if texts["result"] else None,
        error=text["error"],
        error_type=text["error_type"],
    )
