"""The jobs in this process's hands, from delivery to verdict. One thread's; it does no waiting of its own.

Only `settle_accounts` and `hand_over` talk to Redis. The former may raise Away at any point, and is called again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic

from redis.exceptions import ResponseError

from wire.commands import cancel_command, expire_command, record_command, release_command
from wire.record import parse_record
from wire.replies import parse_stopped
from wire.resp import Reply
from worker.assignment import Assignment, Left, Returned, Verdict, Withdrawn
from worker.claims import Claims
from worker.clerk import Clerk, Fate
from worker.config import Config
from worker.desk import Desk
from worker.doubts import Doubts
from worker.errands import Errands
from worker.intake import Intake, Shop
from worker.link import PromptScored, SequenceFailed, Stepped, ToEngine
from worker.meter import Meter
from worker.pipeline import Away
from worker.verdict import by_end, by_record

log = logging.getLogger(__name__)


class Jobs:
    """What becomes of each assignment. `send` reaches the engine; `made_room` is called when more could come."""

    def __init__(
        self,
        config: Config,
        clerk: Clerk,
        intake: Intake,
        send: Callable[[ToEngine], None],
        made_room: Callable[[], None],
        meter: Meter,
    ) -> None:
        self.meter = meter
        self._desk = Desk(send, made_room, meter)
        self.roster, self.counters = self._desk.roster, self._desk.counters
        self.most_unlogged = 0
        """Tokens of one job that the engine was ahead of its log, at most so far."""
        self._ttl, self._clerk, self._made_room = config.result_ttl, clerk, made_room
        self._errands = Errands(clerk)
        self._claims = Claims(config, self._desk, clerk, self._errands, intake)
        self._doubts = Doubts(self._desk, clerk, self._claims, config.lease_seconds)

    @property
    def shop(self) -> Shop | None:
        """What was learnt when an engine was ready first; None until then."""
        return self._claims.shop

    @property
    def serving(self) -> bool:
        """Whether there is an engine to run jobs in."""
        return self._claims.serving

    @property
    def behind(self) -> bool:
        """Whether the ledger has more to hear although it could be reached."""
        return bool(self._errands) or any(a.generation and a.generation.end for a in self.roster.held)

    # What the pool and the boot bring

    def take(self, assignment: Assignment) -> None:
        """A message has come."""
        self.roster.add(assignment)
        self._claims.prepare(assignment)

    def drop(self, assignment: Assignment, hand_over: bool) -> None:
        """Celery wants it stopped: handed over without blame, or for good (the ledger is told by `cancel`)."""
        if assignment not in self.roster.held:
            return
        if assignment.begun and not hand_over:
            self.meter.settled(Withdrawn())
        if hand_over and assignment.generation:
            self._errands.tell(release_command(assignment.job_id, assignment.generation.attempt))
        self._desk.settle(assignment, Left())

    def cancel(self, job_id: str) -> None:
        """End the job's record: its message was revoked."""
        self._errands.tell(cancel_command(job_id, result_ttl=self._ttl))

    def time_out(self, assignment: Assignment, verdict: Verdict, error: str) -> None:
        """Celery's time limit has passed."""
        if assignment not in self.roster.held or assignment.verdict:
            return
        assignment.verdict = verdict
        if assignment.generation:
            self._desk.fail(assignment, assignment.generation, error)

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
                command = expire_command(assignment.job_id, result_ttl=self._ttl)
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
        self.meter.open(shop.ready)
        self._claims.open(shop)
        self._made_room()

    def close(self) -> None:
        """There is no engine to admit to."""
        self._claims.serving = False

    def engine_died(self) -> None:
        """Everything returns to the queue: whoever has room first goes on with it, this worker's next engine too."""
        self.close()
        inside, parked = self.roster.engine_died()
        for assignment in inside:
            self._claims.give_back(assignment, engine_died=True)
        for assignment in parked:
            self._claims.give_back(assignment)

    def stepped(self, frame: Stepped) -> None:
        """One step's tokens."""
        left, now, before = set(frame.left), monotonic(), self.counters["tokens"]
        self.meter.worked(frame.works)
        for output in frame.outputs:
            assignment = self.roster.in_engine.get(output.seq)
            if assignment is None or assignment.generation is None:
                continue  # aborted while the step ran
            choice = assignment.numbers[output.seq]
            self.meter.token(assignment.generation, choice, now)
            ended = assignment.generation.push(choice, output.id, output.logprob, output.top)
            self.most_unlogged = max(self.most_unlogged, assignment.generation.unlogged)
            assignment.suspect = False
            self.counters["tokens"] += 1
            if ended:
                self._desk.part(assignment, output.seq, abort=output.seq not in left)
            if assignment.generation.end:
                self._desk.leave(assignment)
        if frame.outputs:
            self.meter.told(self.counters["tokens"] - before, monotonic() - now)
        for seq in left & self.roster.in_engine.keys():
            self.failed(SequenceFailed(seq=seq, error="the engine ended the sequence before its end"))

    def scored(self, frame: PromptScored) -> None:
        """How likely a prompt was; its first token comes after this."""
        assignment = self.roster.in_engine.get(frame.seq)
        if assignment and assignment.generation:
            assignment.generation.score(frame.logprobs)

    def failed(self, frame: SequenceFailed) -> None:
        """A sequence that could not go on."""
        assignment = self.roster.in_engine.get(frame.seq)
        if assignment and assignment.generation:
            assignment.generation.fail(frame.error, frame.error_type)
            self._desk.part(assignment, frame.seq, abort=False)
            self._desk.leave(assignment)

    # The ledger

    def settle_accounts(self) -> None:
        """Write what is new, claim what waits, see to the rest; Away."""
        self._write()
        self._errands.run()
        self._doubts.examine()
        self._claims.claim()

    def hand_over(self) -> None:
        """Give everything back: what has ended is finished if Redis can be reached, the rest begins elsewhere."""
        for assignment in self.roster.held:
            self._desk.leave(assignment)
        verdict: Verdict = Returned()
        try:
            self._write()
            running = [(a, a.generation) for a in self.roster.held if a.generation]
            self._clerk.tell([release_command(a.job_id, g.attempt) for a, g in running])
        except Away:
            log.warning("Redis cannot be reached: the jobs go to others when the lease ends")
            verdict = Left()
        for assignment in list(self.roster.held):
            self._desk.settle(assignment, verdict)

    def _write(self) -> None:
        for assignment, fate in self._clerk.write(list(self.roster.held)).items():
            generation = assignment.generation
            assert generation, "only what is claimed is written"
            if fate is Fate.FINISHED:
                self.meter.finished(generation)
                self._desk.settle(assignment, assignment.verdict or by_end(generation))
            elif fate is Fate.FENCED:
                self._doubts.add(assignment)
            elif fate is Fate.GONE:
                self._desk.settle(assignment, by_record(None))
            else:
                self._claims.refused_by_redis(assignment, fate)
        self._desk.allow()

    def _look(self, assignment: Assignment) -> None:
        self._errands.ask(record_command(assignment.job_id), self._looked, assignment)

    def _looked(self, assignment: Assignment, reply: Reply) -> None:
        if (
            isinstance(reply, ResponseError)
            or assignment not in self.roster.held
            or assignment in self._doubts
        ):
            return
        record, generation = parse_record(reply), assignment.generation
        if generation and (record is None or record.terminal or record.attempt > generation.attempt):
            self._doubts.add(assignment)
        elif generation is None and record and record.terminal:
            self._desk.settle(assignment, by_record(record))

    def _expired(self, assignment: Assignment, reply: Reply) -> None:
        stopped = parse_stopped(reply)
        if assignment in self.roster.held and (stopped is None or stopped.record.terminal):
            self._doubts.add(assignment)
