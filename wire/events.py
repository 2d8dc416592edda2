"""What a job's log holds and its channel carries: one msgpack map per event, the same bytes in both.

`seq` is the event's place in the job's stream, from 0 without a hole: token k of the job has seq k (over all
choices), and the one terminal event follows the last token. It is the SSE id. The log's stream id of an event is
`<attempt>-<seq + 1>`; an attempt's start marker has `<attempt>-<tokens so far>`.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from wire.job import FinishReason, Scored, State, Usage


class Token(msgspec.Struct, frozen=True, tag="token", kw_only=True):
    """One generated token. The concatenated `text` of a choice's tokens is its whole text."""

    seq: int
    index: int
    """The token's place in its choice, from 0."""
    id: int
    text: str
    """What this token releases: empty while a character is incomplete or a stop string may be beginning."""
    logprob: float | None
    special: bool
    choice: int = 0
    top: tuple[Scored, ...] | UnsetType = UNSET
    """The likeliest tokens of this place, the likeliest first; only where they were asked for."""
    prompt: tuple[Scored, ...] | UnsetType = UNSET
    """The prompt's tokens; only in the job's first token, and where they were asked for."""


class Started(msgspec.Struct, frozen=True, tag="started", kw_only=True):
    """The start marker of attempt 1: in the log only, never published."""

    attempt: int
    seq: int


class Resumed(msgspec.Struct, frozen=True, tag="resumed", kw_only=True):
    """A later attempt has taken over; the token with this `seq` comes next. Readers re-read the log."""

    attempt: int
    seq: int


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """How one choice ended."""

    finish_reason: FinishReason
    seed: int
    tokens: int


class Done(msgspec.Struct, frozen=True, tag="done", kw_only=True, omit_defaults=True):
    """The job is complete."""

    seq: int
    finish_reason: FinishReason
    """Of the first choice, as the seed."""
    seed: int
    usage: Usage
    choices: tuple[Finish, ...] = ()
    """All of them, by number; empty: there is one."""


class Failed(msgspec.Struct, frozen=True, tag="failed", kw_only=True):
    """The job ended in an error; `error` is a sentence, `error_type` TGI's word for its kind."""

    seq: int
    error: str
    error_type: str = "generation"
    usage: Usage = Usage()


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled", kw_only=True):
    """Somebody cancelled the job."""

    seq: int
    usage: Usage = Usage()


class Expired(msgspec.Struct, frozen=True, tag="expired", kw_only=True):
    """The job's deadline passed."""

    seq: int
    usage: Usage = Usage()


Marker: TypeAlias = Started | Resumed
Terminal: TypeAlias = Done | Failed | Cancelled | Expired
Event: TypeAlias = Token | Started | Resumed | Done | Failed | Cancelled | Expired

STATE_OF: dict[type[Done | Failed | Cancelled | Expired], State] = {
    Done: "completed",
    Failed: "failed",
    Cancelled: "cancelled",
    Expired: "expired",
}
"""The state that each terminal event leaves the job in."""
