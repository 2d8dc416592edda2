"""Where assignments go into the engine and where they leave it, and this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

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
from worker.meter import Meter
from worker.roster import Roster

AHEAD = 256
"""Tokens of one text that the engine may be ahead of the log: then its job waits, and no other, until the log has them.

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

    def __init__(self, send: Callable[[ToEngine], None], made_room: Callable[[], None], meter: Meter) -> None:
        self.roster, self.meter = Roster(), meter
        self.counters: Counter[str] = Counter()
        self._send, self._made_room = send, made_room

    def admit(self, assignment: Assignment, generation: Generation) -> None:
        """Into the engine, with what it has produced so far: choices that have nothing yet together."""
        params, room = generation.job.params, self._ahead(generation)
        going = [(choice, each) for choice, each in enumerate(generation.candidates) if not each.finish]
        numbers = {each: self.roster.admit(assignment, choice) for choice, each in going}
        fresh = [each for each in numbers if not each.ids]
        for each in [*(each for each in numbers if each.ids), *fresh[:1]]:
            siblings = fresh[1:] if not each.ids else ()
            for one in (each, *siblings):
                one.allowed = len(each.ids) + room
            self._send(
                Admit(
                    seq=numbers[each],
                    prompt=list(generation.prompt),
                    output=list(each.ids),
                    params=replace(params, seed=each.seed),
                    siblings=tuple((numbers[one], one.seed) for one in siblings),
                    salt=generation.job.tenant,
                    prompt_logprobs=generation.unscored,
                    allowed=each.allowed,
                )
            )

    def allow(self) -> None:
        """Let the engine go on with those of whose tokens the log has taken enough."""
        for number, assignment in self.roster.in_engine.items():
            if (generation := assignment.generation) is None:
                continue
            each = generation.candidates[assignment.numbers[number]]
            allowed = len(each.ids) + self._ahead(generation)
            if each.allowed < generation.job.params.max_new_tokens and allowed >= each.allowed + AHEAD // 2:
                each.allowed = allowed
                self._send(Allow(seq=number, allowed=allowed))

    @staticmethod
    def _ahead(generation: Generation) -> int:
        """Tokens by which each choice may go on; those that are ranked are told of at their end, all of them."""
        if generation.job.params.ranked:
            return generation.job.params.max_new_tokens
        return max(0, AHEAD - generation.unlogged)

    def part(self, assignment: Assignment, number: int, abort: bool) -> None:
        """One of its sequences out of the engine; `abort` unless the engine has said so itself."""
        if abort:
            self._send(Abort(seq=number))
        if self.roster.leave_engine(assignment, number):
            self._made_room()

    def leave(self, assignment: Assignment) -> None:
        """Out of the engine, as far as it is there."""
        for number in assignment.numbers:
            self._send(Abort(seq=number))
        if self.roster.release(assignment):
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
        if assignment.begun:
            self.meter.settled(verdict)
        assignment.generation = None  # a timer may hold the assignment for hours
        assignment.settle(verdict)
