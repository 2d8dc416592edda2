"""The ledger's Redis commands as values, for pipelines that the caller sends; wire/replies.py reads the answers.

Every command may be sent again after a lost reply, but for `append_command`: there Redis cannot tell a
repetition from a late write, so after any connection error the owner sends `reappend_command` before it appends
more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from wire.codec import WIRE_VERSION, encode_event, encode_job, encode_result, version_of
from wire.events import STATE_OF, Event, Failed, Terminal
from wire.job import Job, Result
from wire.keys import OPEN, channel, gone_key, job_key, log_key
from wire.record import FIELDS
from wire.replies import (
    AlreadyTerminal,
    Claimed,
    ClaimReply,
    Gone,
    Outcome,
    Poisoned,
    Stopped,
    Written,
    parse_append,
    parse_claim,
    parse_stopped,
    parse_submit,
    parse_written,
)
from wire.resp import Arg, Command
from wire.scripts import EVEN_IF_FULL, UNLESS_FULL, load

__all__ = [
    "FIELD",
    "LOAD",
    "MAX_STALLS",
    "AlreadyTerminal",
    "ClaimReply",
    "Claimed",
    "Entry",
    "Gone",
    "Outcome",
    "Poisoned",
    "Stopped",
    "Written",
    "append_command",
    "cancel_command",
    "claim_command",
    "count_command",
    "delete_command",
    "entry",
    "expire_command",
    "finish_command",
    "parse_append",
    "parse_claim",
    "parse_stopped",
    "parse_submit",
    "parse_written",
    "publish_command",
    "reappend_command",
    "record_command",
    "refuse_command",
    "release_command",
    "submit_command",
    "withdraw_command",
]

FIELD = "e"
"""The one field of a log entry."""
MAX_STALLS = 3
"""Attempts without a new token after which a job is poison."""

_FIELDS_LUA = "local FIELDS = {" + ",".join(f"'{name}'" for name in FIELDS) + "}\n"


class Entry(NamedTuple):
    """An event as log and channel hold it."""

    seq: int
    data: bytes


class Script(NamedTuple):
    """A script and its SHA-1, ready for EVALSHA."""

    text: str
    sha: str

    def command(self, keys: Sequence[str], *args: Arg) -> Command:
        """The EVALSHA of this script."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


def _script(name: str) -> Script:
    first = UNLESS_FULL if name == "submit" else EVEN_IF_FULL
    text = first + _FIELDS_LUA + load("ledger_common", f"ledger_{name}")
    return Script(text, hashlib.sha1(text.encode()).hexdigest())


_NAMES = ("submit", "claim", "reappend", "finish", "stop", "release", "count", "delete", "withdraw")
_SCRIPTS = {name: _script(name) for name in _NAMES}

LOAD: tuple[Command, ...] = tuple(("SCRIPT", "LOAD", script.text) for script in _SCRIPTS.values())
"""Send these on every new connection; a NoScriptError later means: reconnect."""


def _keys(job_id: str) -> tuple[str, ...]:
    return job_key(job_id), log_key(job_id), channel(job_id), gone_key(job_id), OPEN


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _body(job: Job, queue: str) -> tuple[Arg, ...]:
    start = _ms(job.start_ttl) if job.start_ttl else 0
    prompt = len(job.ids or ())
    whose = job.gateway, job.tenant
    return version_of(job), encode_job(job), job.model, queue, _ms(job.ttl), start, prompt, *whose


_NO_BODY: tuple[Arg, ...] = (0, "", "", "", 0, 0, 0, "", "")


def entry(event: Event) -> Entry:
    """The event, encoded once for log and channel."""
    return Entry(event.seq, encode_event(event))


def submit_command(job: Job, queue: str, digest: str = "") -> Command:
    """Write the job's record unless there is one. Reply: parse_submit."""
    return _SCRIPTS["submit"].command(_keys(job.id), digest, *_body(job, queue))


def claim_command(
    job_id: str,
    boot: str,
    claim: str,
    *,
    result_ttl: float,
    body: Job | None = None,
    queue: str = "",
    max_stalls: int = MAX_STALLS,
) -> Command:
    """Begin the next attempt. `claim` is drawn once per delivery and kept over retries. Reply: parse_claim.

    `body` is the job of a message that carries one: its record is made if there is none. So such a job never runs
    again while its record or tombstone stands, RESULT_TTL after it ended; a message that comes back later than that
    (every worker was away for so long) does run once more. A message without a body then finds nothing.
    """
    args: list[Arg] = [boot, claim, max_stalls, _ms(result_ttl), WIRE_VERSION]
    if body is not None:
        args += _body(body, queue)
    return _SCRIPTS["claim"].command(_keys(job_id), *args)


def append_command(job_id: str, attempt: int, entry: Entry) -> Command:
    """Add one token to the log. Publish it only if the reply (parse_append) is OK."""
    return ("XADD", log_key(job_id), "NOMKSTREAM", f"{attempt}-{entry.seq + 1}", FIELD, entry.data)


def publish_command(job_id: str, entry: Entry) -> Command:
    """The live copy of an entry that the log has accepted. The reply is of no interest."""
    return ("PUBLISH", channel(job_id), entry.data)


def reappend_command(
    job_id: str,
    attempt: int,
    boot: str,
    claim: str,
    last: Sequence[Entry] = (),
    total: int = 0,
    *,
    body: Job | None = None,
    queue: str = "",
) -> Command:
    """After a reconnect: restore the claim and what the log lacks of `last`, the owner's last tokens.

    Reply: parse_written. LOST says that the log lacks earlier ones too, or of `total` tokens some: send again, from
    the reply's `logged`. Without a `total`, compare `logged` with what you have before you append more. GONE: send
    again with the `body` and all tokens, which restores a job whose very record was lost, but none that was deleted.
    """
    pairs = [arg for entry in last for arg in (entry.seq + 1, entry.data)]
    total = max([total, *(entry.seq + 1 for entry in last[-1:])])
    job = _body(body, queue) if body else _NO_BODY
    return _SCRIPTS["reappend"].command(_keys(job_id), attempt, boot, claim, total, *job, *pairs)


def finish_command(
    job_id: str,
    attempt: int,
    tail: Sequence[Entry],
    end: Terminal,
    result: Result | None,
    *,
    result_ttl: float,
) -> Command:
    """Log and publish the tokens not yet appended and the end, and close the record. Reply: parse_written."""
    failed = end if isinstance(end, Failed) else None
    pairs = [arg for item in (*tail, entry(end)) for arg in (item.seq + 1, item.data)]
    return _SCRIPTS["finish"].command(
        _keys(job_id),
        attempt,
        _ms(result_ttl),
        STATE_OF[type(end)],
        encode_result(result) if result else b"",
        failed.error if failed else "",
        failed.error_type if failed else "",
        end.usage.prompt_tokens,
        end.usage.completion_tokens,
        *pairs,
    )


def cancel_command(job_id: str, *, result_ttl: float) -> Command:
    """End the job as cancelled, whoever runs it. Reply: parse_stopped."""
    return _SCRIPTS["stop"].command(_keys(job_id), "cancelled", _ms(result_ttl), "", "")


def expire_command(job_id: str, *, result_ttl: float) -> Command:
    """End the job as expired if a deadline of its has passed. Reply: parse_stopped."""
    return _SCRIPTS["stop"].command(_keys(job_id), "expired", _ms(result_ttl), "", "")


def refuse_command(
    job_id: str, error: str, error_type: str, *, queue: str, model: str, result_ttl: float
) -> Command:
    """End as failed a job whose message could not be read; makes the record. Reply: parse_stopped."""
    return _SCRIPTS["stop"].command(
        _keys(job_id),
        "failed",
        _ms(result_ttl),
        error or "unknown",
        error_type,
        1,
        "",
        model,
        queue,
        *_NO_BODY[4:],
    )


def release_command(job_id: str, attempt: int, *, engine_died: bool = False) -> Command:
    """Hand a running job over. Reply: 1 if it was ours.

    The next claim blames nobody; unless its engine died under it: then the job is a suspect until it adds a token.
    """
    return _SCRIPTS["release"].command(_keys(job_id), attempt, int(engine_died))


def count_command(job_id: str, prompt_tokens: int) -> Command:
    """Note how many tokens the prompt has, where the worker tokenised it."""
    return _SCRIPTS["count"].command(_keys(job_id), prompt_tokens)


def delete_command(job_id: str, *, result_ttl: float) -> Command:
    """Remove a finished job's record and log. Reply: b"deleted", b"live" or b"missing"."""
    return _SCRIPTS["delete"].command(_keys(job_id), _ms(result_ttl))


def withdraw_command(job_id: str, *, result_ttl: float) -> Command:
    """Remove a job that has not begun and was submitted once. Reply: 1 if it is gone."""
    return _SCRIPTS["withdraw"].command(_keys(job_id), _ms(result_ttl))


def record_command(job_id: str) -> Command:
    """Read the record. Reply: wire.record.parse_record."""
    return ("HMGET", job_key(job_id), *FIELDS)
