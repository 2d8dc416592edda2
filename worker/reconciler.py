"""Goes through the jobs that have not ended and sees to it that each of them can.

What its record promises but nobody holds is queued again; deadlines are enforced; a job that is bound to a
connection ends with the gateway that held it. Any number may run beside each other: a job that is due goes to one of
them, and whatever one does may be done twice.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from redis import Redis
from redis.exceptions import RedisError

from wire.commands import record_command
from wire.errors import JobNotFound
from wire.job import Job
from wire.ledger import Ledger
from wire.open import Gateways, OpenJobs, Suspect, spread
from wire.record import Record, parse_record
from wire.replies import Stopped
from wire.tally import Tally

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two turns."""
MOST = 500
"""Jobs of one turn: some milliseconds of Redis, and of ours."""
PAUSE = 10.0
"""Seconds between two looks at the same job."""

Send = Callable[[Job, str], None]
"""Queue a job's message."""


class Owner(Protocol):
    """This process, as the boot knows it."""

    @property
    def id(self) -> str:
        """Its boot id."""

    @property
    def quiet(self) -> bool:
        """Whether nobody may be declared dead now: then nothing counts as lost either."""

    def tasks(self) -> set[str]:
        """The jobs in its hands."""


class Reconciler:
    """A thread of the process that `owner` is."""

    def __init__(self, redis: Redis, result_ttl: float, send: Send, owner: Owner) -> None:
        """`redis` must return bytes, and is this thread's own."""
        self.counters: Counter[str] = Counter()
        self.tally = Tally()
        """Of jobs that it ended before any worker had begun them."""
        self._redis, self._send, self._owner = redis, send, owner
        self._doubtful: list[str] = []
        """Jobs to look at besides those that are due: is one said to be in this process's hands, and is not?"""
        self._all_doubtful = threading.Event()
        self._ledger, self._open, self._gateways = Ledger(redis, result_ttl), OpenJobs(redis), Gateways(redis)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Go on until stop()."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End the thread; waits so long for it."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def writes_lost(self) -> None:
        """Another Redis answers. It may say that this process runs what it has ended long ago: look at every job.

        Nobody else can tell, for to them a job is in good hands while the boot in its record lives.
        """
        self._all_doubtful.set()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self.turn()
            except RedisError as error:
                log.debug("reconciler: %s", error)  # the boot's thread says that Redis is away
            except Exception:  # what one job does to it must not cost all others
                log.exception("the reconciler goes on after an unexpected error")

    def turn(self) -> int:
        """Look at the jobs that are due, at most MOST, and as many doubtful ones; how many. Raises RedisError."""
        if self._owner.quiet:
            return 0
        now, due = self._open.due(MOST, PAUSE)
        doubted = self._doubted()
        ids = list(dict.fromkeys([*due, *doubted]))
        if not ids:
            return 0
        # In this order: what is taken meanwhile has a message, and what ends meanwhile a record that says so.
        me, mine = self._owner.id, self._owner.tasks()
        records = self._records(ids)
        self._open.forget(job_id for job_id, record in records.items() if record is None or record.terminal)
        astray = {job_id for job_id, record in records.items() if record and record.boot == me} - mine
        # What is neither due nor astray is for whoever finds it due: every worker of the fleet goes through all jobs.
        looked_at = astray.union(due)
        going = {
            id: record for id, record in records.items() if record and not record.terminal and id in looked_at
        }
        gateways = self._gateways.live() if any(record.gateway for record in going.values()) else set()
        suspects = [
            Suspect(job_id, record.queue, "" if job_id in astray else record.boot)
            for job_id, record in going.items()
            if not self._ended(job_id, record, now, gateways)
        ]
        for suspect, unheld in zip(suspects, self._open.unheld(suspects), strict=True):
            if unheld:
                self._queue_again(suspect)
        del self._doubtful[: len(doubted)]  # not before: a turn that Redis breaks off is done again
        return len(ids)

    def _doubted(self) -> list[str]:
        if self._all_doubtful.is_set():
            self._all_doubtful.clear()  # before the look: another failover meanwhile makes it look again
            try:
                self._doubtful = self._open.ids()
            except RedisError:
                self._all_doubtful.set()
                raise
        return self._doubtful[:MOST]

    def _records(self, ids: list[str]) -> dict[str, Record | None]:
        pipe = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.execute_command(*record_command(job_id))
        return {job_id: parse_record(reply) for job_id, reply in zip(ids, pipe.execute(), strict=True)}

    def _ended(self, job_id: str, record: Record, now: int, gateways: set[str]) -> bool:
        """Whether its time was up, or its client is gone."""
        try:
            if record.limit <= now:
                self.counters["expired"] += 1
                self._end(job_id, self._ledger.expire(job_id), "expired")
                return True
            if record.gateway and record.gateway not in gateways:
                self.counters["abandoned"] += 1
                log.warning("job %s is cancelled: the gateway that held its connection is gone", job_id)
                self._end(job_id, self._ledger.cancel(job_id), "dropped")
                return True
        except JobNotFound:
            return True
        if record.limit < now + 1000 * PAUSE:
            self._open.look_again(job_id, record.limit)
        return False

    def _end(self, job_id: str, stopped: Stopped, how: str) -> None:
        if stopped.unbegun:
            self.tally.count("tgi_request_failure", f"err={how}")
        spread(self._redis, job_id, stopped)

    def _queue_again(self, suspect: Suspect) -> None:
        try:
            job = self._ledger.job(suspect.job_id)
        except JobNotFound:
            return
        log.warning("job %s was in no queue and in no worker's hands: it is queued again", job.id)
        self._send(job, suspect.queue)
        self.counters["requeued"] += 1
