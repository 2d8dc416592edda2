"""The publisher's dealings with the ledger: many jobs per round trip, and nothing published that is not logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import TypeAlias, TypeVar

from redis.exceptions import OutOfMemoryError, ResponseError

from wire.commands import (
    append_command,
    claim_command,
    finish_command,
    publish_command,
    reappend_command,
    record_command,
)
from wire.errors import NewerWireVersion
from wire.job import Job
from wire.keys import LIVE
from wire.record import Record, parse_record
from wire.replies import ClaimReply, Outcome, Written, parse_append, parse_claim, parse_written
from wire.resp import Command, Reply
from worker.assignment import Assignment
from worker.generation import Generation
from worker.pipeline import Away, Pipeline

log = logging.getLogger(__name__)

FULL = 1.0
"""Seconds that a Redis which refused a token counts as full: then tokens go by a script, which it does not refuse."""
QUIET = 60.0
"""Seconds in which this is said once."""


class Fate(Enum):
    """What the ledger made of an assignment that was written."""

    FINISHED = auto()
    """Its end is logged and published."""
    FENCED = auto()
    """It is not ours any more: a newer attempt has begun, or somebody has ended the job."""
    GONE = auto()
    """It was deleted."""


Fates: TypeAlias = dict[Assignment, Fate | ResponseError]
"""A ResponseError: Redis refuses this job's keys, not the connection."""
Pair: TypeAlias = tuple[Assignment, Generation]
Answer = TypeVar("Answer")


class Clerk:
    """Every method is one or two round trips; Away: call it again later, all of it may be repeated."""

    def __init__(self, pipeline: Pipeline, result_ttl: float, queue: str, boot: Callable[[], str]) -> None:
        """`boot` tells the process's boot id by now."""
        self._pipeline, self._ttl, self._queue, self._boot = pipeline, result_ttl, queue, boot
        self._full_until = float("-inf")

    def write(self, assignments: Sequence[Assignment]) -> Fates:
        """Log and publish what is new; the fates of those that need no more writing."""
        self._pipeline.connect()
        pairs = [(a, a.generation) for a in assignments if a.generation]
        full = time.monotonic() < self._full_until
        fates = self._restore(
            [
                pair
                for pair in pairs
                if pair[0].connection != self._pipeline.number or (full and pair[1].unsent)
            ]
        )
        live = self._append([pair for pair in pairs if pair[0] not in fates and not pair[1].end], fates)
        self._finish([pair for pair in pairs if pair[0] not in fates and pair[1].end], live, fates)
        return fates

    def claim(self, assignments: Sequence[tuple[Assignment, Job | None]]) -> list[ClaimReply | Exception]:
        """Begin their next attempts; an exception stands for a job that cannot be claimed by this worker."""
        boot = self._boot()
        replies = self._pipeline.call(
            [
                claim_command(a.job_id, boot, a.claim, result_ttl=self._ttl, body=body, queue=self._queue)
                for a, body in assignments
            ]
        )
        answers: list[ClaimReply | Exception] = []
        for (assignment, _), reply in zip(assignments, replies, strict=True):
            assignment.connection = self._pipeline.number
            try:
                answers.append(parse_claim(reply, assignment.claim))
            except (NewerWireVersion, ResponseError, ValueError) as error:
                answers.append(error)
        return answers

    def records(self, job_ids: Sequence[str]) -> list[Record | None]:
        """The jobs' records; None where there is none."""
        return [parse_record(reply) for reply in self._pipeline.call([record_command(id) for id in job_ids])]

    def live(self, boots: Sequence[str]) -> list[bool]:
        """Whether these boots hold a lease."""
        return [
            score is not None for score in self._pipeline.call([("ZSCORE", LIVE, boot) for boot in boots])
        ]

    def tell(self, commands: Sequence[Command]) -> list[Reply]:
        """Anything else."""
        return self._pipeline.call(commands)

    def _restore(self, pairs: Sequence[Pair]) -> Fates:
        """After a new connection or a new boot id, or when it is full: what the logs lack, and whose the jobs are."""
        fates: Fates = {}
        lost: set[Assignment] = set()
        while pairs:
            replies = self._pipeline.call([self._reappend(pair, pair[0] in lost) for pair in pairs])
            again: list[Pair] = []
            for pair, reply in zip(pairs, replies, strict=True):
                if self._restored(pair, _parse(parse_written, reply), lost, fates):
                    pair[0].connection = self._pipeline.number
                elif pair[0] not in fates:
                    again.append(pair)
            pairs = again
        return fates

    def _reappend(self, pair: Pair, lost: bool) -> Command:
        assignment, generation = pair
        return reappend_command(
            assignment.job_id,
            generation.attempt,
            self._boot(),
            generation.claim,
            generation.unsent,
            len(generation.entries),
            body=generation.job if lost else None,
            queue=self._queue,
        )

    def _restored(
        self, pair: Pair, written: Written | ResponseError, lost: set[Assignment], fates: Fates
    ) -> bool:
        """Whether its log is whole; if not, it has a fate or goes round again."""
        assignment, generation = pair
        if isinstance(written, ResponseError):
            fates[assignment] = written
            return False
        outcome, logged = written
        if outcome is Outcome.GONE and assignment not in lost:
            # Redis may have lost the very record: once more, with the job and all its tokens.
            lost.add(assignment)
            generation.sent = 0
        elif outcome in (Outcome.GONE, Outcome.FENCED):
            fates[assignment] = _fate(outcome)
        else:
            generation.sent = logged
        return outcome is Outcome.OK

    def _append(self, pairs: Sequence[Pair], fates: Fates) -> list[Command]:
        """The tokens that the logs took are to be published by the commands that this gives back."""
        writes = [(pair, entry) for pair in pairs for entry in pair[1].unsent]
        commands = [append_command(a.job_id, g.attempt, entry) for (a, g), entry in writes]
        # All or none: were one token refused and the next one accepted, the log would have a hole.
        behind = any(len(generation.unsent) > 1 for _, generation in pairs)
        replies = self._pipeline.together(commands) if behind else self._pipeline.call(commands)
        live: list[Command] = []
        refused: dict[Pair, None] = {}
        for (pair, entry), reply in zip(writes, replies, strict=True):
            assignment, generation = pair
            if isinstance(reply, OutOfMemoryError):
                refused[pair] = None
            elif (
                assignment.connection and assignment not in fates and self._appended(assignment, reply, fates)
            ):
                generation.sent = entry.seq + 1
                live.append(publish_command(assignment.job_id, entry))
        if refused:
            self._found_full()
            fates |= self._restore(list(refused))
        return live

    def _finish(self, pairs: Sequence[Pair], live: list[Command], fates: Fates) -> None:
        """Publish what was logged, and end what has ended."""
        commands = [
            finish_command(a.job_id, g.attempt, g.tail, g.end, g.result, result_ttl=self._ttl)
            for a, g in pairs
            if g.end
        ]
        # A live copy that is lost is a gap to its readers, who then read the log; a finish is sent again.
        with suppress(Away):
            replies = self._pipeline.call([*live, *commands])
            for (assignment, _), reply in zip(pairs, replies[len(live) :], strict=True):
                self._finished(assignment, reply, fates)

    def _found_full(self) -> None:
        now = time.monotonic()
        if now - self._full_until > QUIET:
            log.warning("Redis is full (maxmemory): it takes no new jobs until some have ended; these go on")
        self._full_until = now + FULL

    def _appended(self, assignment: Assignment, reply: Reply, fates: Fates) -> bool:
        outcome = _parse(parse_append, reply)
        if outcome is Outcome.OK:
            return True
        if outcome is Outcome.GONE:
            assignment.connection = 0  # not believed before a reappend says so, too
        else:
            fates[assignment] = _fate(outcome)
        return False

    def _finished(self, assignment: Assignment, reply: Reply, fates: Fates) -> None:
        written = _parse(parse_written, reply)
        if isinstance(written, ResponseError) or written.outcome is Outcome.FENCED:
            fates[assignment] = _fate(written)
        elif written.outcome is Outcome.OK:
            fates[assignment] = Fate.FINISHED
        else:
            assignment.connection = 0  # the log has lost entries, or all: restore it, then finish


def _parse(parse: Callable[[Reply], Answer], reply: Reply) -> Answer | ResponseError:
    try:
        return parse(reply)
    except ResponseError as error:
        return error


def _fate(answer: Outcome | Written | ResponseError) -> Fate | ResponseError:
    if isinstance(answer, ResponseError):
        return answer
    outcome = answer.outcome if isinstance(answer, Written) else answer
    return Fate.GONE if outcome is Outcome.GONE else Fate.FENCED
