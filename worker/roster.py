"""Who is held, who waits for a claim, who is in the engine. Pure bookkeeping.

All that were in an engine when it died are suspects, whichever worker takes them next. In each engine a few of them at
a time are on trial, until each has added a token: first one, then twice as many each time, so that many need few
trials. Whose trial an engine did not survive is tried alone from then on: so bystanders die with a job that kills
engines once at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import count

from worker.assignment import Assignment


class Roster:
    """For the publisher's thread; `room` may be asked from any."""

    def __init__(self) -> None:
        self.held: dict[Assignment, None] = {}
        """All, in the order in which they came."""
        self.in_engine: dict[int, Assignment] = {}
        self._waiting: deque[Assignment] = deque()
        self._trial: list[Assignment] = []
        self._most = 1  # on the next trial
        self._parked: deque[Assignment] = deque()
        self._numbers = count(1)
        self._entered = self._left = 0  # each changed by one thread only

    def expect(self) -> None:
        """One more is on its way; called by the thread that asks for room."""
        self._entered += 1

    def room(self, capacity: int) -> int:
        """How many more may come."""
        return max(0, capacity - (self._entered - self._left))

    def add(self, assignment: Assignment) -> None:
        """It has come."""
        self.held[assignment] = None

    def queue(self, assignment: Assignment) -> None:
        """It waits to be claimed."""
        self._waiting.append(assignment)

    def unqueue(self, assignment: Assignment) -> None:
        """It waits no more, if it did: for a claim, or to be tried."""
        for line in (self._waiting, self._parked):
            if assignment in line:
                line.remove(assignment)

    def claimable(self) -> list[Assignment]:
        """Whom to claim next: all that wait."""
        return list(self._waiting)

    def claimed(self, assignments: Iterable[Assignment]) -> None:
        """These wait no more."""
        for assignment in assignments:
            self.unqueue(assignment)

    def may_enter(self, assignment: Assignment) -> bool:
        """Whether it may go into the engine now; a suspect waits for `next_on_trial`."""
        if assignment.suspect:
            self._parked.append(assignment)
        return not assignment.suspect

    def next_on_trial(self) -> list[Assignment]:
        """The suspects that may go into the engine now: none before those of the last trial have passed it."""
        if any(assignment.suspect and assignment in self.held for assignment in self._trial):
            return []
        self._most = 2 * self._most if self._trial else 1
        self._trial = []
        while self._parked and len(self._trial) < self._most:
            if self._trial and (self._parked[0].alone or self._trial[0].alone):
                break
            self._trial.append(self._parked.popleft())
        return self._trial[:]

    def admit(self, assignment: Assignment, choice: int) -> int:
        """A choice of it goes into the engine; its number there. Only the first has room that was asked for."""
        number = next(self._numbers)
        self._left -= bool(assignment.numbers)
        assignment.numbers[number] = choice
        self.in_engine[number] = assignment
        return number

    def leave_engine(self, assignment: Assignment, number: int) -> bool:
        """One of its sequences has left the engine; whether room was made: the last one's is the job's own."""
        self.in_engine.pop(number, None)
        there = assignment.numbers.pop(number, None) is not None
        self._left += (made := there and bool(assignment.numbers))
        return made

    @property
    def max_tokens(self) -> int:
        """Tokens that those in the engine may come to, prompts included; may be asked from any thread."""
        running = [a.generation for a in list(self.in_engine.values())]
        return sum(len(g.prompt) + g.job.params.max_new_tokens for g in running if g)

    def release(self, assignment: Assignment) -> bool:
        """All have left the engine, or will never enter; whether room was made."""
        for number in list(assignment.numbers):
            self.leave_engine(assignment, number)
        made, assignment.occupies = assignment.occupies, False
        self._left += made
        return made

    def remove(self, assignment: Assignment) -> bool:
        """It is settled; whether room was made."""
        self.held.pop(assignment, None)
        self.unqueue(assignment)
        return self.release(assignment)

    def engine_died(self) -> tuple[list[Assignment], list[Assignment]]:
        """Those who were in it and those who were to be tried next: neither are any more."""
        inside, parked = list(dict.fromkeys(self.in_engine.values())), list(self._parked)
        self.in_engine.clear()
        self._parked.clear()
        self._trial, self._most = [], 1
        for assignment in inside:
            self._left += max(0, len(assignment.numbers) - 1)
            assignment.numbers.clear()
        return inside, parked
