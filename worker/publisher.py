"""The thread that owns every sequence of the process: it hears the engine, makes text, writes the logs.

When Redis is away it goes on listening to the engine and keeps the tokens: at most AHEAD (worker/desk.py) of each
running job, for then the engine lets it wait, and nothing new comes in without Redis.
"""

from __future__ import annotations

import heapq
import logging
import select
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import TypeAlias

from celery.exceptions import SoftTimeLimitExceeded

from wire.errors import SagradaError
from worker.assignment import Assignment, Broken, TimedOut
from worker.inbox import Inbox
from worker.intake import Intake, Shop
from worker.jobs import Jobs
from worker.link import PromptScored, Ready, SequenceFailed, Stepped
from worker.pipeline import Away, Pipeline
from worker.supervisor import Died, GaveUp, Happened, Supervisor

log = logging.getLogger(__name__)

Timer: TypeAlias = tuple[float, int, Callable[[], None]]

WATCH = 0.25
"""Seconds between two looks at the engine's heartbeat."""
MOST_ERRORS = 20
"""Turns in a row that fail unexpectedly before the process gives up: its jobs are better off elsewhere."""
ENGINE_COUNTS = ("steps", "compilations", "prompt_tokens", "prefix_hit_tokens", "preemptions")
"""What Stepped counts."""
ENGINE_GRACE = 5.0
"""Seconds that the engine gets to free its device at the end."""


class Publisher:
    """Methods may be called from any thread; what they ask is done on the publisher's own."""

    def __init__(
        self,
        jobs: Jobs,
        inbox: Inbox,
        pipeline: Pipeline,
        supervisor: Supervisor,
        intake: Intake,
        gave_up: Callable[[str], None],
    ) -> None:
        """`gave_up` is called, with the reason, when the model cannot be served by this process."""
        self.jobs, self.supervisor = jobs, supervisor
        self.ready: Ready | None = None
        """What the engine said of itself."""
        self.stepped: Stepped | None = None
        """Its last step."""
        self.draining = False
        self._inbox, self._pipeline, self._intake = inbox, pipeline, intake
        self._gave_up = gave_up
        self._timers: list[Timer] = []
        self._order = count()
        self._behind = False
        self._errors = 0
        self._stopped = False
        # The engine dies with the thread that started it: this one, which lives as long as the process.
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin: start the engine, take what comes."""
        self._thread.start()

    def room(self, lookahead: int) -> int:
        """Jobs that could be started now, and `lookahead` more."""
        if self.draining or not self.jobs.serving or self.ready is None:
            return 0
        if (
            self.stepped
            and self.stepped.free_blocks * 32 < self.ready.num_blocks
            and self.jobs.roster.in_engine
        ):
            return 0  # there are slots, but no memory to run more in: leave them to another worker
        return self.jobs.roster.room(self.ready.slots + lookahead)

    def deliver(self, assignment: Assignment) -> None:
        """Take a job; `settle` is called in the end."""
        self.jobs.roster.expect()
        self._inbox.put(partial(self._take, assignment))

    def drop(self, assignment: Assignment, hand_over: bool) -> None:
        """Stop it now: for good, or for another worker to go on."""
        self._inbox.put(partial(self.jobs.drop, assignment, hand_over))

    def cancel(self, job_id: str) -> None:
        """End the record of a job whose message was revoked."""
        self._inbox.put(partial(self.jobs.cancel, job_id))

    def look_at(self, job_ids: Iterable[str]) -> None:
        """Somebody may have taken or ended these."""
        self._inbox.put(partial(self.jobs.look_at, list(job_ids)))

    def tick(self, now: int) -> None:
        """A lease tick, at Redis time `now` in ms."""
        self._inbox.put(partial(self.jobs.tick, now))

    def connect_anew(self) -> None:
        """Leave the connection: an idle one may still lead to a server that is the master no more."""
        self._inbox.put(self._pipeline.close)

    def new_boot(self) -> None:
        """The boot id has changed."""
        self._inbox.put(self.jobs.doubt_all)

    def hand_over(self, seconds: float) -> bool:
        """Give every job back; whether that was done within `seconds`."""
        done = threading.Event()
        self._inbox.put(self.jobs.hand_over)
        self._inbox.put(done.set)
        return done.wait(seconds)

    def stop(self, seconds: float) -> None:
        """End the thread and the engine."""
        self._inbox.put(self._stop)
        self._thread.join(seconds)

    def _stop(self) -> None:
        self._stopped = True

    # The thread

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._sleep()
                self._guarded_turn()
        finally:
            self.supervisor.stop(ENGINE_GRACE)
            self._intake.stop()
            self._pipeline.close()

    def _guarded_turn(self) -> None:
        try:
            self._turn()
            self._errors = 0
        except Exception:  # this thread's end would be the end of every stream
            log.exception("unexpected error in the publisher: it goes on")
            self._errors += 1
            if self._errors == MOST_ERRORS:
                self._give_up(f"{MOST_ERRORS} unexpected errors in a row: see the worker's log")
            time.sleep(0.05)

    def _turn(self) -> None:
        for call in self._inbox.take():
            call()
        for happened in self.supervisor.turn():
            self._hear(happened)
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
        try:
            self.jobs.settle_accounts()
            self._behind = self.jobs.behind
        except Away:
            self._behind = True

    def _sleep(self) -> None:
        poll = select.poll()
        poll.register(self._inbox, select.POLLIN)
        if (link := self.supervisor.fileno()) is not None:
            poll.register(link, select.POLLIN | (select.POLLOUT if self.supervisor.backlog else 0))
        poll.poll(1000 * self._timeout())

    def _timeout(self) -> float:
        timeout = min(WATCH, self.supervisor.wait)
        if self._timers:
            timeout = min(timeout, max(0.0, self._timers[0][0] - time.monotonic()))
        return min(timeout, max(0.01, self._pipeline.wait)) if self._behind else timeout

    def _hear(self, happened: Happened) -> None:
        match happened:
            case Stepped():
                self._count(happened)
                self.jobs.stepped(happened)
            case PromptScored():
                self.jobs.scored(happened)
            case SequenceFailed():
                self.jobs.failed(happened)
            case Ready():
                self._intake.open(self.supervisor.restarts, happened, self._opened)
            case Died():
                self.stepped = None
                self.jobs.engine_died()
            case GaveUp(reason=reason):
                self._give_up(reason)

    def _count(self, frame: Stepped) -> None:
        """The engine counts since its start; the process outlives engines."""
        before, self.stepped = self.stepped, frame
        for name in ENGINE_COUNTS:
            self.jobs.counters[name] += getattr(frame, name) - (getattr(before, name) if before else 0)

    def _opened(self, answer: Shop | SagradaError) -> None:
        if isinstance(answer, SagradaError):
            self._give_up(str(answer))
        elif answer.engine == self.supervisor.restarts and self.supervisor.state == "serving":
            self.ready = answer.ready
            self.jobs.open(answer)

    def _give_up(self, reason: str) -> None:
        log.error("this worker cannot serve: %s", reason)
        self.draining = True
        self.jobs.close()
        self.jobs.hand_over()
        self._gave_up(reason)

    def _take(self, assignment: Assignment) -> None:
        self.jobs.take(assignment)
        if (soft := assignment.soft_limit) is not None:
            verdict = Broken(SoftTimeLimitExceeded(soft))
            self._limit(assignment, soft, verdict, f"the soft time limit of {soft:g} s passed")
        if (hard := assignment.hard_limit) is not None:
            self._limit(assignment, hard, TimedOut(hard), f"the time limit of {hard:g} s passed")

    def _limit(self, assignment: Assignment, seconds: float, verdict: Broken | TimedOut, error: str) -> None:
        call = partial(self.jobs.time_out, assignment, verdict, error)
        timer: Timer = (assignment.since + seconds, next(self._order), call)
        heapq.heappush(self._timers, timer)
