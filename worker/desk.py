"""Where assignments go into the engine and where they leave it, and this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from worker.assignment import (
    Assignment,
    Broken,
    Completed,
    Left,
    Returned,
    Settled,
    TimedOut,
    Verdict,
    Withdrawn,
)
from worker.generation import Generation
from worker.link import Abort, Admit, Allow, ToEngine
from worker.roster import Roster

AHEAD = 256
"""Tokens of one job that the engine may be ahead of the log: then this job waits, and no other, until the log has them.

So what Redis has not taken, because it is away, stalls or is slow, is bounded for each job.
"""

COUNTED: dict[type[Verdict], str] = {
    Completed: "jobs_completed",
    Broken: "jobs_failed",
    TimedOut: "jobs_failed",
    Withdrawn: "jobs_cancelled",
    Settled: "jobs_elsewhere",
    Returned: "jobs_given_back",
    Left: "jobs_given_back",
}
"""The registry's counter of each verdict."""


class Desk:
    """`send` reaches the engine; `made_room` is called when more jobs could come."""

    def __init__(self, send: Callable[[ToEngine], None], made_room: Callable[[], None]) -> None:
        self.roster = Roster()
        self.counters: Counter[str] = Counter()
        self._send, self._made_room = send, made_room

    def admit(self, assignment: Assignment, generation: Generation) -> None:
        """Into the engine, with what it has produced so far."""
        assignment.allowed = generation.sent + AHEAD
        self._send(
            Admit(
                seq=self.roster.admit(assignment),
                prompt=list(generation.prompt),
                output=list(generation.ids),
                params=generation.job.params,
                salt=generation.job.tenant,
                allowed=assignment.allowed,
            )
        )

    def allow(self) -> None:
        """Let the engine go on with those of whose tokens the log has taken enough."""
        for assignment in self.roster.in_engine.values():
            generation, allowed = assignment.generation, assignment.allowed
            if generation is None or allowed >= generation.job.params.max_new_tokens:
                continue
            if generation.sent + AHEAD >= allowed + AHEAD // 2:
                assignment.allowed = generation.sent + AHEAD
                self._send(Allow(seq=assignment.number, allowed=assignment.allowed))

    def leave(self, assignment: Assignment, abort: bool = True) -> None:
        """Out of the engine, if it is there; `abort` unless the engine has said so itself."""
        if abort and assignment.number:
            self._send(Abort(seq=assignment.number))
        if self.roster.leave_engine(assignment):
            self._made_room()

    def fail(
        self, assignment: Assignment, generation: Generation, error: str, error_type: str = "generation"
    ) -> None:
        """It ends as failed, once that is written."""
        generation.fail(error, error_type)
        self.leave(assignment)

    def settle(self, assignment: Assignment, verdict: Verdict) -> None:
        """Out of this process, unless it has gone already."""
        if assignment not in self.roster.held:
            return
        self.leave(assignment)
        self.roster.remove(assignment)
        self.counters[COUNTED[type(verdict)]] += 1
        assignment.generation = None  # a timer may hold the assignment for hours
        assignment.settle(verdict)
