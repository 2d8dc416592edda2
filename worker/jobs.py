"""The jobs in this process's hands, from delivery to verdict. One thread's; it does no waiting of its own.

`settle_accounts` is the only method that talks to Redis. It may raise Away at any point and is simply called again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from redis.exceptions import ResponseError

from wire.commands import (
    AlreadyTerminal,
    Claimed,
    ClaimReply,
    Gone,
    Poisoned,
    cancel_command,
    count_command,
    expire_command,
    parse_stopped,
    record_command,
    refuse_command,
    release_command,
)
from wire.errors import JobNotFound, NewerWireVersion, SagradaError
from wire.job import Job
from wire.ledger import new_claim_id
from wire.record import Record, parse_record
from wire.resp import Reply
from worker.assignment import Assignment, Broken, Left, Returned, Verdict
from worker.clerk import Clerk, Fate
from worker.config import Config
from worker.doubts import Doubts
from worker.errands import Errands
from worker.generation import Generation
from worker.intake import Intake, Shop
from worker.link import Abort, Admit, SequenceFailed, Stepped, ToEngine
from worker.pipeline import Away
from worker.roster import Roster
from worker.verdict import by_end, by_record

log = logging.getLogger(__name__)

_POISON = (
    "the job was begun several times and each time its engine or worker died before it produced a token: "
    "it will not be tried again"
)


class Jobs:
    """What becomes of each assignment. `send` reaches the engine; `made_room` is called when more could come."""

    def __init__(
        self,
        config: Config,
        clerk: Clerk,
        intake: Intake,
        send: Callable[[ToEngine], None],
        made_room: Callable[[], None],
    ) -> None:
        self.roster = Roster()
        self.counters: Counter[str] = Counter()
        self.shop: Shop | None = None
        """What was learnt when an engine was ready first; None until then."""
        self.serving = False
        """Whether there is an engine to admit to."""
        self._config, self._clerk, self._intake = config, clerk, intake
        self._send, self._made_room = send, made_room
        self._early: list[Assignment] = []
        self._errands = Errands(clerk)
        self._doubts = Doubts(clerk, config.lease_seconds, self._settle, self._queue_again)
        self._newer: list[tuple[float, Assignment]] = []

    @property
    def behind(self) -> bool:
        """Whether the ledger has more to hear although it could be reached."""
        return bool(self._errands) or any(a.generation and a.generation.end for a in self.roster.held)

    # What the pool and the boot bring

    def take(self, assignment: Assignment) -> None:
        """A message has come."""
        self.roster.add(assignment)
        if self.shop is None:
            self._early.append(assignment)
        elif assignment.body is None:
            self.roster.queue(assignment)
        else:
            work = partial(self.shop.read, assignment.job_id, assignment.body)
            self._intake.do(work, partial(self._read, assignment))

    def drop(self, assignment: Assignment, hand_over: bool) -> None:
        """Celery wants it stopped: handed over without blame, or for good (the ledger is told by `cancel`)."""
        if assignment not in self.roster.held:
            return
        if hand_over and assignment.generation:
            self._errands.tell(release_command(assignment.job_id, assignment.generation.attempt))
        self._settle(assignment, Left())

    def cancel(self, job_id: str) -> None:
        """End the job's record: its message was revoked."""
        self._errands.tell(cancel_command(job_id, result_ttl=self._config.result_ttl))

    def time_out(self, assignment: Assignment, verdict: Verdict, error: str) -> None:
        """Celery's time limit has passed."""
        if assignment not in self.roster.held or assignment.verdict:
            return
        assignment.verdict = verdict
        if assignment.generation:
            self._fail(assignment, assignment.generation, error)

    def look_at(self, job_ids: Iterable[str]) -> None:
        """Somebody may have taken or ended these."""
        wanted = set(job_ids)
        for assignment in self.roster.held:
            if assignment.job_id in wanted:
                self._look(assignment)

    def tick(self, now: int) -> None:
        """A lease tick, at Redis time `now` in ms: look at deadlines, and at whom no append has told anything."""
        self._doubts.due = True
        for assignment in self.roster.held:
            generation = assignment.generation
            if generation and not generation.end and 0 < generation.deadline <= now:
                command = expire_command(assignment.job_id, result_ttl=self._config.result_ttl)
                self._errands.ask(command, self._expired, assignment)
            elif generation is None or assignment.looked == generation.sent:
                self._look(assignment)
            assignment.looked = generation.sent if generation else -1

    def doubt_all(self) -> None:
        """The boot id has changed: the records are to name the new one."""
        for assignment in self.roster.held:
            assignment.connection = 0

    # What the engine says

    def open(self, shop: Shop) -> None:
        """The engine is ready, and its tokenizer published."""
        self.shop, self.serving = shop, True
        early, self._early = self._early, []
        for assignment in early:
            self.roster.held.pop(assignment)
            self.take(assignment)
        self._made_room()

    def stepped(self, frame: Stepped) -> None:
        """One step's tokens."""
        left = set(frame.left)
        for output in frame.outputs:
            assignment = self.roster.in_engine.get(output.seq)
            if assignment is None or assignment.generation is None:
                continue  # aborted while the step ran
            assignment.generation.push(output.id, output.logprob)
            assignment.suspect = False
            self.counters["tokens"] += 1
            if assignment.generation.end:
                self._leave(assignment, abort=output.seq not in left)
        for seq in left & self.roster.in_engine.keys():
            self.failed(SequenceFailed(seq=seq, error="the engine ended the sequence before its end"))

    def failed(self, frame: SequenceFailed) -> None:
        """A sequence that could not go on."""
        assignment = self.roster.in_engine.get(frame.seq)
        if assignment and assignment.generation:
            assignment.generation.fail(frame.error, frame.error_type)
            self._leave(assignment, abort=False)

    def engine_died(self) -> None:
        """Its sequences are claimed again when there is another."""
        self.serving = False
        for assignment in self.roster.engine_died():
            assignment.claim = ""

    # The ledger

    def settle_accounts(self) -> None:
        """Write what is new, claim what waits, see to the rest; Away."""
        self._write()
        self._errands.run()
        self._doubts.examine()
        self._return_newer()
        if self.serving:
            self._claim()

    def hand_over(self) -> None:
        """Give everything back: what has ended is finished if Redis can be reached, the rest begins elsewhere."""
        for assignment in self.roster.held:
            self._leave(assignment, abort=True)
        try:
            self._write()
            running = [(a, a.generation) for a in self.roster.held if a.generation]
            self._clerk.tell([release_command(a.job_id, g.attempt) for a, g in running])
        except Away:
            log.warning("Redis cannot be reached: the jobs go to others when the lease ends")
        for assignment in list(self.roster.held):
            self._settle(assignment, Left())

    def _write(self) -> None:
        for assignment, fate in self._clerk.write(list(self.roster.held)).items():
            generation = assignment.generation
            assert generation, "only what is claimed is written"
            if fate is Fate.FINISHED:
                self._settle(assignment, assignment.verdict or by_end(generation))
            elif fate is Fate.FENCED:
                self._doubt(assignment)
            elif fate is Fate.GONE:
                self._settle(assignment, by_record(None))
            else:
                self._refused_by_redis(assignment, fate)

    def _claim(self) -> None:
        wanted = self.roster.claimable()
        for assignment in wanted:
            assignment.claim = assignment.claim or new_claim_id()
        replies = self._clerk.claim([(a, a.job) for a in wanted])
        self.roster.claimed(wanted)
        for assignment, reply in zip(wanted, replies, strict=True):
            self._claimed(assignment, reply)

    def _claimed(self, assignment: Assignment, reply: ClaimReply | Exception) -> None:
        match reply:
            case Claimed(job=Job(ids=None) as job) if self.shop:
                work = partial(self.shop.tokenise, job)
                self._intake.do(work, partial(self._tokenised, assignment, reply))
            case Claimed(job=job):
                self._begin(assignment, reply, job)
            case Poisoned(job=job):
                self._fail(assignment, self._generation(assignment, reply, job), _POISON)
            case AlreadyTerminal(record=record):
                self._settle(assignment, by_record(record))
            case Gone():
                self.counters["gone"] += 1
                self._settle(
                    assignment, Broken(JobNotFound("the job is unknown here: send its request along"))
                )
            case NewerWireVersion():
                log.warning("job %s: %s", assignment.job_id, reply)
                self._newer.append((time.monotonic() + self._config.lease_seconds, assignment))
            case _:
                self._refused_by_redis(assignment, reply)

    def _generation(self, assignment: Assignment, claimed: Claimed | Poisoned, job: Job) -> Generation:
        assert self.shop, "jobs are claimed only when there is an engine"
        self.counters["resumed"] += claimed.attempt > 1
        assignment.generation = Generation(claimed, job, self.shop.tokenizer, self.shop.ready.eos_ids)
        return assignment.generation

    def _begin(self, assignment: Assignment, claimed: Claimed, job: Job) -> None:
        generation = self._generation(assignment, claimed, job)
        if assignment.verdict:
            self._fail(assignment, generation, "the time limit passed before the job was begun")
        elif generation.end:
            self._leave(assignment, abort=False)
        elif not self.serving:
            self._queue_again(assignment)
        else:
            number = self.roster.admit(assignment)
            prompt, output = list(generation.prompt), list(generation.ids)
            self._send(Admit(seq=number, prompt=prompt, output=output, params=job.params))

    def _tokenised(self, assignment: Assignment, claimed: Claimed, answer: Job | SagradaError) -> None:
        if assignment not in self.roster.held:
            return
        if isinstance(answer, SagradaError):
            generation = self._generation(assignment, claimed, claimed.job)
            self._fail(assignment, generation, str(answer), "validation")
        else:
            self._errands.tell(count_command(assignment.job_id, len(answer.ids or ())))
            self._begin(assignment, claimed, answer)

    def _read(self, assignment: Assignment, answer: Job | SagradaError) -> None:
        if assignment not in self.roster.held:
            return
        if isinstance(answer, Job):
            assignment.job = answer
            self.roster.queue(assignment)
            return
        command = refuse_command(
            assignment.job_id,
            str(answer),
            "validation",
            queue=self._config.task_queue,
            model=self._config.name,
            result_ttl=self._config.result_ttl,
        )
        assignment.verdict = Broken(answer)
        self._errands.ask(command, self._refused, assignment)

    def _refused(self, assignment: Assignment, _: Reply) -> None:
        if assignment.verdict:
            self._settle(assignment, assignment.verdict)

    # Doubt: who owns the job now?

    def _look(self, assignment: Assignment) -> None:
        self._errands.ask(record_command(assignment.job_id), self._looked, assignment)

    def _looked(self, assignment: Assignment, reply: Reply) -> None:
        record, generation = _record(reply), assignment.generation
        if assignment not in self.roster.held or assignment in self._doubts:
            return
        if generation and (record is None or record.terminal or record.attempt > generation.attempt):
            self._doubt(assignment)
        elif generation is None and record and record.terminal:
            self._settle(assignment, by_record(record))

    def _expired(self, assignment: Assignment, reply: Reply) -> None:
        stopped = parse_stopped(reply)
        if assignment in self.roster.held and (stopped is None or stopped.record.terminal):
            self._doubt(assignment)

    def _doubt(self, assignment: Assignment) -> None:
        self._leave(assignment, abort=True)
        assignment.generation = None
        self.roster.unqueue(assignment)
        self._doubts.add(assignment)

    def _queue_again(self, assignment: Assignment) -> None:
        assignment.claim = ""
        self.roster.queue(assignment)

    def _return_newer(self) -> None:
        while self._newer and self._newer[0][0] <= time.monotonic():
            self._settle(self._newer.pop(0)[1], Returned())

    # Endings

    def _fail(
        self, assignment: Assignment, generation: Generation, error: str, error_type: str = "generation"
    ) -> None:
        generation.fail(error, error_type)
        self._leave(assignment, abort=True)

    def _refused_by_redis(self, assignment: Assignment, error: Exception) -> None:
        log.error("job %s cannot be kept in the ledger: %s", assignment.job_id, error)
        self._settle(assignment, Broken(SagradaError(f"the ledger cannot keep this job: {error}")))

    def _settle(self, assignment: Assignment, verdict: Verdict) -> None:
        if assignment not in self.roster.held:
            return
        self._leave(assignment, abort=True)
        self._doubts.discard(assignment)
        self.roster.remove(assignment)
        self.counters["jobs_" + type(verdict).__name__.lower()] += 1
        assignment.generation = None  # a timer may hold the assignment for hours
        assignment.settle(verdict)

    def _leave(self, assignment: Assignment, abort: bool) -> None:
        if abort and assignment.number:
            self._send(Abort(seq=assignment.number))
        if self.roster.leave_engine(assignment):
            self._made_room()


def _record(reply: Reply) -> Record | None:
    return None if isinstance(reply, ResponseError) else parse_record(reply)
