"""Who is held, who waits for a claim, who is in the engine. Pure bookkeeping.

After an engine's death all that were in it are suspects. They run again one at a time, each joined by the next once
it has added a token, so that an engine that dies again without one has shown which job kills it.
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
        """It waits no more, if it did."""
        if assignment in self._waiting:
            self._waiting.remove(assignment)

    def claimable(self) -> list[Assignment]:
        """Whom to claim next: all that wait, or one suspect at a time while there are any."""
        if self._trial and self._trial.suspect and self._trial in self.held:
            return []
        suspect = next((a for a in self._waiting if a.suspect), None)
        return [suspect] if suspect else list(self._waiting)

    def claimed(self, assignments: Iterable[Assignment]) -> None:
        """These wait no more."""
        for assignment in assignments:
            self.unqueue(assignment)
            if assignment.suspect:
                self._trial = assignment

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

    def engine_died(self) -> list[Assignment]:
        """Those who were in it: suspects now, to be claimed again before all others."""
        lost = list(self.in_engine.values())
        self.in_engine.clear()
        self._trial = None
        for assignment in lost:
            assignment.number = 0
            assignment.suspect = True
        self._waiting.extendleft(reversed(lost))
        return lost
