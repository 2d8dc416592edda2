"""Assignments that the ledger takes for ours no longer: acked only if somebody else answers for the job."""

from __future__ import annotations

import time

from worker.assignment import Assignment, Settled
from worker.claims import Claims
from worker.clerk import Clerk
from worker.desk import Desk
from worker.verdict import by_record

LEASES = 3
"""Lease times after which a job whose new owner is nowhere to be seen is claimed again."""


class Doubts:
    """Finds out who owns a job now."""

    def __init__(self, desk: Desk, clerk: Clerk, claims: Claims, lease: float) -> None:
        """`lease` in seconds."""
        self._desk, self._clerk, self._claims, self._lease = desk, clerk, claims, lease
        self._since: dict[Assignment, float] = {}
        self.due = False
        """Whether to look again at the next `examine`."""

    def __contains__(self, assignment: Assignment) -> bool:
        return assignment in self._since

    def add(self, assignment: Assignment) -> None:
        """Stop it here, and find out."""
        self._desk.leave(assignment)
        assignment.generation = None
        self._desk.roster.unqueue(assignment)
        self._since[assignment] = time.monotonic()
        self.due = True

    def examine(self) -> None:
        """Read the records of those in doubt, and decide; Away."""
        self._since = {a: since for a, since in self._since.items() if a in self._desk.roster.held}
        if not self.due or not self._since:
            return
        doubted = list(self._since)
        records = self._clerk.records([a.job_id for a in doubted])
        live = self._clerk.live([record.boot if record else "" for record in records])
        self.due = False
        for assignment, record, alive in zip(doubted, records, live, strict=True):
            if record is None or record.terminal:
                self._desk.settle(assignment, assignment.verdict or by_record(record))
            elif alive:
                self._desk.settle(assignment, Settled())
            elif time.monotonic() - self._since[assignment] > LEASES * self._lease:
                del self._since[assignment]
                self._claims.again(assignment)
