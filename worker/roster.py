"""Who is held, who waits for a claim, who is in the engine. Pure bookkeeping.

All that were in an engine when it died are suspects, whichever worker takes them next. In each engine one of them at
a time is on trial, until it has added a token: so an engine that dies again has shown which job kills it.
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
        self._trial: Assignment | None = None
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
        """Whether it may go into the engine now; a suspect may have to wait for `next_on_trial`."""
        if not assignment.suspect:
            return True
        if self._on_trial:
            self._parked.append(assignment)
            return False
        self._trial = assignment
        return True

    def next_on_trial(self) -> Assignment | None:
        """A suspect that may go into the engine now, if there is one."""
        if not self._parked or self._on_trial:
            return None
        self._trial = self._parked.popleft()
        return self._trial

    @property
    def _on_trial(self) -> bool:
        return bool(self._trial and self._trial.suspect and self._trial in self.held)

    def admit(self, assignment: Assignment) -> int:
        """It goes into the engine; its number there."""
        assignment.number = next(self._numbers)
        self.in_engine[assignment.number] = assignment
        return assignment.number

    def leave_engine(self, assignment: Assignment) -> bool:
        """It has left the engine, or will never enter; whether room was made."""
        self.in_engine.pop(assignment.number, None)
        assignment.number = 0
        made, assignment.occupies = assignment.occupies, False
        self._left += made
        return made

    def remove(self, assignment: Assignment) -> bool:
        """It is settled; whether room was made."""
        self.held.pop(assignment, None)
        self.unqueue(assignment)
        return self.leave_engine(assignment)

    def engine_died(self) -> tuple[list[Assignment], list[Assignment]]:
        """Those who were in it and those who were to be tried next: neither are any more."""
        inside, parked = list(self.in_engine.values()), list(self._parked)
        self.in_engine.clear()
        self._parked.clear()
        self._trial = None
        for assignment in inside:
            assignment.number = 0
        return inside, parked
