"""From a message to a running sequence: read its request, claim the job, tokenise, admit."""

from __future__ import annotations

import logging
import time
from functools import partial

from redis.exceptions import ResponseError

from wire.commands import count_command, refuse_command, release_command
from wire.errors import JobNotFound, NewerWireVersion, SagradaError
from wire.job import Job
from wire.ledger import new_claim_id
from wire.replies import AlreadyTerminal, Claimed, ClaimReply, Gone, Poisoned, parse_stopped
from wire.resp import Reply
from worker.assignment import Assignment, Broken, Returned
from worker.clerk import Clerk
from worker.config import Config
from worker.desk import Desk
from worker.errands import Errands
from worker.generation import Generation
from worker.intake import Intake, Shop
from worker.verdict import by_record

log = logging.getLogger(__name__)

_POISON = (
    "the job was begun several times and each time its engine or worker died before it produced a token: "
    "it will not be tried again"
)


class Claims:
    """The beginnings of jobs."""

    def __init__(self, config: Config, desk: Desk, clerk: Clerk, errands: Errands, intake: Intake) -> None:
        self.shop: Shop | None = None
        """What was learnt when an engine was ready first; None until then."""
        self.serving = False
        """Whether there is an engine to admit to."""
        self._config, self._desk, self._clerk = config, desk, clerk
        self._errands, self._intake = errands, intake
        self._early: list[Assignment] = []
        self._newer: list[tuple[float, Assignment]] = []

    def open(self, shop: Shop) -> None:
        """The engine is ready, and its tokenizer published."""
        self.shop, self.serving = shop, True
        early, self._early = self._early, []
        for assignment in early:
            self.prepare(assignment)

    def prepare(self, assignment: Assignment) -> None:
        """Read its request, if it carries one; then it waits to be claimed."""
        if self.shop is None:
            self._early.append(assignment)
        elif assignment.body is None:
            self._desk.roster.queue(assignment)
        else:
            work = partial(self.shop.read, assignment.job_id, assignment.body)
            self._intake.do(work, partial(self._read, assignment))

    def again(self, assignment: Assignment) -> None:
        """It waits for another attempt."""
        assignment.claim = ""
        self._desk.roster.queue(assignment)

    def claim(self) -> None:
        """Claim whom the roster lets; Away."""
        self._return_newer()
        if not self.serving:
            for assignment in self._desk.roster.claimable():  # none before the first engine
                self.give_back(assignment)
            return
        self._try_suspects()
        wanted = self._desk.roster.claimable()
        for assignment in wanted:
            assignment.claim = assignment.claim or new_claim_id()
        replies = self._clerk.claim([(a, a.job) for a in wanted])
        self._desk.roster.claimed(wanted)
        for assignment, reply in zip(wanted, replies, strict=True):
            self._claimed(assignment, reply)
        self._try_suspects()

    def refused_by_redis(self, assignment: Assignment, error: Exception) -> None:
        """Redis refuses this one job's keys."""
        log.error("job %s cannot be kept in the ledger: %s", assignment.job_id, error)
        self._desk.settle(assignment, Broken(SagradaError(f"the ledger cannot keep this job: {error}")))

    def _read(self, assignment: Assignment, answer: Job | SagradaError) -> None:
        if assignment not in self._desk.roster.held:
            return
        if isinstance(answer, Job):
            assignment.job = answer
            self._desk.roster.queue(assignment)
            return
        assignment.verdict = Broken(answer)
        command = refuse_command(
            assignment.job_id,
            str(answer),
            "validation",
            queue=self._config.task_queue,
            model=self._config.name,
            result_ttl=self._config.result_ttl,
        )
        self._errands.ask(command, self._refused, assignment)

    def _refused(self, assignment: Assignment, reply: Reply) -> None:
        stopped = None if isinstance(reply, ResponseError) else parse_stopped(reply)
        if stopped and stopped.changed:
            self._desk.meter.refused()
        if assignment.verdict:
            self._desk.settle(assignment, assignment.verdict)

    def _claimed(self, assignment: Assignment, reply: ClaimReply | Exception) -> None:
        match reply:
            case Claimed(job=Job(ids=None) as job) if self.shop:
                work = partial(self.shop.tokenise, job)
                self._intake.do(work, partial(self._tokenised, assignment, reply))
            case Claimed(job=job):
                self._begin(assignment, reply, job)
            case Poisoned(job=job):
                self._desk.fail(assignment, self._generation(assignment, reply, job), _POISON)
            case AlreadyTerminal(record=record):
                if reply.just_now and not record.started:
                    self._desk.meter.expired_unbegun()
                self._desk.settle(assignment, by_record(record))
            case Gone():
                self._desk.counters["gone"] += 1
                error = JobNotFound("the job is unknown here: send its request along")
                self._desk.settle(assignment, Broken(error))
            case NewerWireVersion():
                log.warning("job %s: %s", assignment.job_id, reply)
                self._newer.append((time.monotonic() + self._config.lease_seconds, assignment))
            case _:
                self.refused_by_redis(assignment, reply)

    def _tokenised(self, assignment: Assignment, claimed: Claimed, answer: Job | SagradaError) -> None:
        if assignment not in self._desk.roster.held:
            return
        if isinstance(answer, SagradaError):
            generation = self._generation(assignment, claimed, claimed.job)
            self._desk.fail(assignment, generation, str(answer), "validation")
        else:
            self._errands.tell(count_command(assignment.job_id, len(answer.ids or ())))
            self._begin(assignment, claimed, answer)

    def _generation(self, assignment: Assignment, claimed: Claimed | Poisoned, job: Job) -> Generation:
        assert self.shop, "jobs are claimed only when there is an engine"
        self._desk.counters["resumed"] += claimed.attempt > 1
        assignment.begun = True
        assignment.generation = Generation(claimed, job, self.shop.tokenizer, self.shop.ready.eos_ids)
        return assignment.generation

    def _begin(self, assignment: Assignment, claimed: Claimed, job: Job) -> None:
        generation = self._generation(assignment, claimed, job)
        if claimed.attempt == 1:
            self._desk.meter.begun(job, of_a_producer=assignment.body is not None)
        assignment.suspect, assignment.alone = claimed.suspect, claimed.alone
        if assignment.verdict:
            self._desk.fail(assignment, generation, "the time limit passed before the job was begun")
        elif generation.end:
            self._desk.leave(assignment)
        elif not self.serving:
            self.give_back(assignment)
        elif self._desk.roster.may_enter(assignment):
            self._desk.admit(assignment, generation)

    def _try_suspects(self) -> None:
        for assignment in self._desk.roster.next_on_trial():
            assert assignment.generation, "who is on trial was claimed"
            self._desk.admit(assignment, assignment.generation)

    def give_back(self, assignment: Assignment, engine_died: bool = False) -> None:
        """Into the queue: there is no engine for it here, but another worker may have room."""
        self._desk.roster.unqueue(assignment)
        generation = assignment.generation
        if generation is None:
            self._desk.settle(assignment, Returned())
        else:
            release = release_command(assignment.job_id, generation.attempt, engine_died=engine_died)
            self._errands.ask(release, self._released, assignment)

    def _released(self, assignment: Assignment, _: Reply) -> None:
        # No generation: somebody else may have it, and is found out about. An end: it is written first.
        if assignment.generation and not assignment.generation.end:
            self._desk.settle(assignment, Returned())

    def _return_newer(self) -> None:
        """Not at once, or this worker would take it again and again."""
        while self._newer and self._newer[0][0] <= time.monotonic():
            self._desk.settle(self._newer.pop(0)[1], Returned())
