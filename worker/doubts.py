"""Assignments that the ledger no longer takes for ours. A message is acked only if somebody else answers for its job."""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.assignment import Assignment, Settled, Verdict
from worker.clerk import Clerk
from worker.verdict import by_record

LEASES = 3
"""Lease times after which a job whose new owner is nowhere to be seen is claimed again."""


class Doubts:
    """`settle` ends one; `claim_again` takes back one that nobody answers for."""

    def __init__(
        self,
        clerk: Clerk,
        lease: float,
        settle: Callable[[Assignment, Verdict], None],
        claim_again: Callable[[Assignment], None],
    ) -> None:
        self._clerk, self._lease, self._settle, self._claim_again = clerk, lease, settle, claim_again
        self._since: dict[Assignment, float] = {}
        self.due = False
        """Whether to look again at the next `examine`."""

    def __contains__(self, assignment: Assignment) -> bool:
        return assignment in self._since

    def add(self, assignment: Assignment) -> None:
        """Find out whose it is."""
        self._since[assignment] = time.monotonic()
        self.due = True

    def discard(self, assignment: Assignment) -> None:
        """It has ended."""
        self._since.pop(assignment, None)

    def examine(self) -> None:
        """Read the records of those in doubt, and decide; Away."""
        if not self.due or not self._since:
            return
        doubted = list(self._since)
        records = self._clerk.records([a.job_id for a in doubted])
        live = self._clerk.live([record.boot if record else "" for record in records])
        self.due = False
        for assignment, record, alive in zip(doubted, records, live, strict=True):
            if record is None or record.terminal:
                self._settle(assignment, assignment.verdict or by_record(record))
            elif alive:
                self._settle(assignment, Settled())
            elif time.monotonic() - self._since[assignment] > LEASES * self._lease:
                del self._since[assignment]
                self._claim_again(assignment)
