"""What Redis answers to the ledger's commands (wire/commands.py), read into values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias, cast

from redis.exceptions import RedisError, ResponseError

from wire.codec import WIRE_VERSION, decode_event, decode_job
from wire.errors import NewerWireVersion
from wire.events import Token
from wire.job import Job
from wire.record import Record, parse_record

_STALE = "equal or smaller than the target stream top item"


class Outcome(StrEnum):
    """What became of a write to a log."""

    OK = "ok"
    FENCED = "fenced"
    """A newer attempt has begun or the job has ended: drop the sequence, write nothing more."""
    GONE = "gone"
    """There is no such job or log (any more). After a reconnect: reappend before believing it."""
    LOST = "lost"
    """The log lacks entries that were accepted before: reappend from its count."""


class Written(NamedTuple):
    """The answer to finish and reappend."""

    outcome: Outcome
    logged: int
    """Events in the log now; those with seq >= logged are missing."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The job is this boot's, under this attempt."""

    job: Job
    attempt: int
    deadline: int
    """Redis time in ms."""
    claim: str
    tokens: tuple[Token, ...]
    """What earlier attempts delivered: to be replayed, not repeated."""
    suspect: bool = False
    """The engine that ran it last died, and no other has added a token since."""
    alone: bool = False
    """A suspect that had added nothing when that engine died, either: no other may be tried with it."""
    age: int = 0
    """Milliseconds since it was submitted."""
    begun: int = 0
    """Milliseconds since it was claimed first."""


@dataclass(frozen=True, slots=True)
class Poisoned:
    """As Claimed, but several attempts in a row added nothing: finish it as failed."""

    job: Job
    attempt: int
    claim: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class AlreadyTerminal:
    """The job has ended: store the result, ack."""

    record: Record
    just_now: bool = False
    """It was this claim that ended it: its deadline had passed."""


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no record, and the message carried no job, or the job was deleted: drop the message."""


ClaimReply: TypeAlias = Claimed | Poisoned | AlreadyTerminal | Gone


class Stopped(NamedTuple):
    """The answer to cancel, expire and refuse."""

    changed: bool
    """Whether this call ended the job; a repeated call says False."""
    boot: str
    """Whose channel to tell; empty: nobody runs it, remove its message from record.queue."""
    record: Record

    @property
    def unbegun(self) -> bool:
        """Whether this call ended a job that no worker had begun: then nobody else counts its end."""
        return self.changed and not self.record.started


def parse_submit(reply: Any) -> tuple[bool, Record]:
    """(created, record); raises what Redis raised."""
    _raise(reply)
    return bool(reply[0]), cast(Record, parse_record(reply[1]))


def parse_claim(reply: Any, claim: str) -> ClaimReply:
    """What the claim found; NewerWireVersion if the record is a newer Sagrada's."""
    _raise(reply)
    match reply[0]:
        case b"gone":
            return Gone()
        case b"newer":
            raise NewerWireVersion(
                f"the job is written in wire version {reply[1]}, this process reads up to {WIRE_VERSION}: "
                "leave it for a newer worker"
            )
        case b"terminal":
            return AlreadyTerminal(cast(Record, parse_record(reply[1])), len(reply) > 2)
    verdict, attempt, deadline, body, events, suspect, age, begun = reply
    job = decode_job(body)
    tokens = tuple(event for event in map(decode_event, events) if isinstance(event, Token))
    if verdict == b"poisoned":
        return Poisoned(job, attempt, claim, tokens)
    return Claimed(job, attempt, deadline, claim, tokens, suspect > 0, suspect > 1, age, begun)


def parse_append(reply: Any) -> Outcome:
    """OK, FENCED or GONE; raises any other error."""
    if reply is None:
        return Outcome.GONE
    if isinstance(reply, ResponseError) and _STALE in str(reply):
        return Outcome.FENCED
    _raise(reply)
    return Outcome.OK


def parse_written(reply: Any) -> Written:
    """The outcome of finish or reappend."""
    _raise(reply)
    return Written(Outcome(reply[0].decode()), reply[1])


def parse_stopped(reply: Any) -> Stopped | None:
    """What cancel, expire or refuse found; None: no such job."""
    _raise(reply)
    if reply is None:
        return None
    return Stopped(bool(reply[0]), reply[1].decode(), cast(Record, parse_record(reply[2])))


def _raise(reply: Any) -> None:
    if isinstance(reply, RedisError):
        raise reply
