"""The ledger: what was promised of each job and what became of it. Redis is the only place that knows.

The fence is the log's stream id, `<attempt>-<count>`: a claim writes the next attempt's start marker, and
Redis itself refuses every smaller id from then on. `Ledger` is the plain, one-call-at-a-time form;
wire/commands.py has the same commands for pipelines.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from wire import commands
from wire.codec import decode_event, decode_job
from wire.commands import (
    AlreadyTerminal,
    Claimed,
    ClaimReply,
    Gone,
    Outcome,
    Poisoned,
    Stopped,
    Written,
    entry,
)
from wire.errors import IdempotencyConflict, JobNotFound
from wire.events import Cancelled, Done, Event, Expired, Failed, Terminal, Token
from wire.job import Job, Result
from wire.keys import job_key, log_key, result_key
from wire.record import Record, parse_record
from wire.resp import Command

Deleted: TypeAlias = Literal["deleted", "live", "missing"]

TAIL = 32
"""Log entries that are read first when only the newest are likely to be missing."""


def new_claim_id() -> str:
    """An id for one delivery's claim, kept over its retries."""
    return secrets.token_hex(8)


class Ledger:
    """Jobs, by id. Safe to share between threads as far as its Redis client is."""

    def __init__(self, redis: Redis, result_ttl: float = 3600.0) -> None:
        """`redis` must return bytes; `result_ttl`: seconds that a finished job is kept."""
        self._redis: Any = redis
        self._ttl = result_ttl

    def submit(self, job: Job, queue: str, digest: str = "") -> tuple[bool, Record]:
        """(created, record). The same id finds the first record; with another digest: IdempotencyConflict.

        Put the message into the queue whenever the record says `queued`, also if it was not created here: the
        first submitter may have died in between, and a reply that was lost is asked for again.
        """
        reply = self._run(commands.submit_command(job, queue, digest))
        created, record = commands.parse_submit(reply)
        # A record that its owner had to restore has no digest any more.
        if not created and record.digest not in ("", digest):
            raise IdempotencyConflict("this Idempotency-Key came with another body before: take a new key")
        return created, record

    def claim(
        self,
        job_id: str,
        boot: str,
        *,
        claim: str | None = None,
        body: Job | None = None,
        queue: str = "",
        max_stalls: int = commands.MAX_STALLS,
    ) -> ClaimReply:
        """Begin the job's next attempt; `body` is the job of a message that carries one."""
        claim = claim or new_claim_id()
        command = commands.claim_command(
            job_id, boot, claim, result_ttl=self._ttl, body=body, queue=queue, max_stalls=max_stalls
        )
        return commands.parse_claim(self._run(command), claim)

    def append(self, job_id: str, attempt: int, token: Token) -> Outcome:
        """Log one token and, if the log took it, publish it."""
        item = entry(token)
        try:
            reply: Any = self._run(commands.append_command(job_id, attempt, item))
        except ResponseError as error:
            reply = error
        outcome = commands.parse_append(reply)
        if outcome is Outcome.OK:
            self._run(commands.publish_command(job_id, item))
        return outcome

    def reappend(
        self,
        job_id: str,
        attempt: int,
        boot: str,
        claim: str,
        last: Sequence[Token] = (),
        total: int = 0,
        *,
        body: Job | None = None,
        queue: str = "",
    ) -> Written:
        """Restore a running job's claim, what the log lacks of the `last` of its `total` tokens, and its record."""
        items = [entry(token) for token in last]
        command = commands.reappend_command(
            job_id, attempt, boot, claim, items, total, body=body, queue=queue
        )
        return commands.parse_written(self._run(command))

    def finish(
        self,
        job_id: str,
        attempt: int,
        end: Terminal,
        result: Result | None = None,
        tail: Sequence[Token] = (),
    ) -> Written:
        """Log and publish the last tokens and the end, and close the record."""
        items = [entry(token) for token in tail]
        command = commands.finish_command(job_id, attempt, items, end, result, result_ttl=self._ttl)
        return commands.parse_written(self._run(command))

    def cancel(self, job_id: str) -> Stopped:
        """End the job as cancelled. The caller tells the boot, or removes the queued message; JobNotFound."""
        return self._stop(job_id, commands.cancel_command(job_id, result_ttl=self._ttl))

    def expire(self, job_id: str) -> Stopped:
        """End the job as expired if its deadline has passed; JobNotFound."""
        return self._stop(job_id, commands.expire_command(job_id, result_ttl=self._ttl))

    def refuse(
        self, job_id: str, error: str, error_type: str = "validation", *, queue: str = "", model: str = ""
    ) -> Stopped:
        """End as failed a job whose message could not be read; makes its record."""
        command = commands.refuse_command(
            job_id, error, error_type, queue=queue, model=model, result_ttl=self._ttl
        )
        return self._stop(job_id, command)

    def release(self, job_id: str, attempt: int, *, engine_died: bool = False) -> bool:
        """Hand a running job over; False if it was not ours any more."""
        return bool(self._run(commands.release_command(job_id, attempt, engine_died=engine_died)))

    def set_prompt_tokens(self, job_id: str, prompt_tokens: int) -> None:
        """Note the prompt's length, where the worker counted it."""
        self._run(commands.count_command(job_id, prompt_tokens))

    def delete(self, job_id: str) -> Deleted:
        """Remove a finished job's record, log and Celery result at once; a live job is left alone."""
        reply: Deleted = self._run(commands.delete_command(job_id, result_ttl=self._ttl)).decode()
        if reply == "deleted":
            self._redis.unlink(result_key(job_id))
        return reply

    def withdraw(self, job_id: str) -> bool:
        """Make as if it had never been submitted; False, and nothing changes, if it has begun or others asked, too."""
        return bool(self._run(commands.withdraw_command(job_id, result_ttl=self._ttl)))

    def record(self, job_id: str) -> Record | None:
        """The job's record; None: no such job."""
        return parse_record(self._run(commands.record_command(job_id)))

    def job(self, job_id: str) -> Job:
        """The job as it was accepted; JobNotFound."""
        body = self._redis.hget(job_key(job_id), "job")
        if not body:
            raise _missing(job_id)
        return decode_job(body)

    def read(self, job_id: str, after: int = -1) -> list[Event]:
        """The logged events with seq > after, the markers between them, and the end; empty without a log."""
        return read_many(self._redis, {job_id: after})[job_id]

    def _stop(self, job_id: str, command: Command) -> Stopped:
        stopped = commands.parse_stopped(self._run(command))
        if stopped is None:
            raise _missing(job_id)
        return stopped

    def _run(self, command: Command) -> Any:
        try:
            return self._redis.execute_command(*command)
        except NoScriptError:
            for load in commands.LOAD:
                self._redis.execute_command(*load)
            return self._redis.execute_command(*command)


def read_many(redis: Redis, after: Mapping[str, int]) -> dict[str, list[Event]]:
    """For each job id the logged events with seq > its `after`, in order, and the end in any case.

    Two pipelines for any number of jobs: the first reads the newest entries only, the second whole logs where
    those are not enough.
    """
    newest = redis.pipeline(transaction=False)
    for job_id in after:
        newest.xrevrange(log_key(job_id), count=TAIL)
    pages = dict(zip(after, newest.execute(), strict=True))
    short = [id for id, page in pages.items() if len(page) == TAIL and _seq(page[-1]) > after[id]]
    whole = redis.pipeline(transaction=False)
    for job_id in short:
        whole.xrange(log_key(job_id))
    full = dict(zip(short, whole.execute(), strict=True))
    return {id: _events(full[id] if id in full else pages[id][::-1], after[id]) for id in after}


def _seq(row: tuple[bytes, dict[bytes, bytes]]) -> int:
    """The seq of a log row by its stream id: `<attempt>-<seq + 1>`."""
    return int(row[0].partition(b"-")[2]) - 1


def _events(rows: Sequence[tuple[bytes, dict[bytes, bytes]]], after: int) -> list[Event]:
    # The last row is kept whatever its seq: where Redis lost writes, the end may lie before what was delivered.
    kept = [row for row in rows[:-1] if _seq(row) >= after] + list(rows[-1:])
    events = (decode_event(row[1][commands.FIELD.encode()]) for row in kept)
    return [
        event
        for event in events
        if event.seq > after or isinstance(event, Done | Failed | Cancelled | Expired)
    ]


def _missing(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id}: the id is wrong, or its result has expired")


__all__ = [
    "AlreadyTerminal",
    "Claimed",
    "Gone",
    "Ledger",
    "Outcome",
    "Poisoned",
    "Stopped",
    "Written",
    "new_claim_id",
    "read_many",
]
