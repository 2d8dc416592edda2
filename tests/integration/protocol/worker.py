"""One worker process of the model: the real boot, publisher and reconciler, their threads' turns taken by hand."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from redis.exceptions import RedisError

from tests.integration.protocol.operation import ALL, Fate, Operation
from tests.integration.protocol.server import Client, Server
from tests.support.intake import Intake
from wire import queue
from wire.dispatch import dispatch
from wire.keys import result_key
from wire.open import Suspect
from wire.queue import Delivery, Popped, Record, TaskQueue, pop_args
from wire.tokenizer import Tokenizer
from worker.assignment import Assignment, Broken, Completed, Left, Returned, Settled, Verdict, Withdrawn
from worker.boot import Boot
from worker.clerk import Clerk
from worker.config import Config
from worker.inbox import Inbox
from worker.intake import Shop
from worker.jobs import Jobs
from worker.link import Abort, Admit, Output, Ready, SequenceFailed, Stepped, ToEngine
from worker.meter import Meter
from worker.pipeline import Pipeline
from worker.publisher import Publisher
from worker.reaper import Reaper
from worker.reconciler import Reconciler
from worker.script import EOS, write_tokenizer
from worker.supervisor import Died, Happened

QUEUE = "sagrada.m"
LEASE, RESULT_TTL = 1000.0, 600.0
"""Seconds; neither ends by itself while a story is told."""
SLOTS = 3

READY = Ready(
    model_id="m", revision="", folder="", device="cpu", dtype="float32", vocab_size=260, eos_ids=[EOS], slots=SLOTS,
    block_size=16, num_blocks=9, max_input_tokens=8, max_total_tokens=16, plan_hash="", buckets=1, warm_up_seconds=0,
)  # fmt: skip


STOP = "q"
"""Ends the texts of jobs of several, which so are of different lengths."""


def token_of(letter: int, seed: int, position: int) -> int:
    """The one true text of the choice with this seed, of the job whose prompt is this letter."""
    return ord("a") + (7 * letter + 11 * seed + 5 * position) % 26


def logprob_of(token: int) -> float:
    """The alphabet's first letters are the likeliest."""
    return -token / 128


@cache
def tokenizer() -> Tokenizer:
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return Tokenizer.from_folder(folder)


class Engine:
    """What the publisher's supervisor is: an engine whose steps are the model's."""

    state, backlog, wait = "serving", False, float("inf")

    def __init__(self) -> None:
        self.restarts = 0
        self.opened = -1
        """The start that its parent has been told of."""
        self.sequences: dict[int, tuple[Admit, int, int]] = {}
        """Number → how it was admitted, its seed, tokens so far."""
        self._happened: list[Happened] = []

    def send(self, frame: ToEngine) -> None:
        if isinstance(frame, Admit):
            for seq, seed in ((frame.seq, frame.params.seed), *frame.siblings):
                self.sequences[seq] = frame, seed, len(frame.output)
        elif isinstance(frame, Abort):
            self.sequences.pop(frame.seq, None)

    def turn(self) -> list[Happened]:
        happened, self._happened = self._happened, []
        return happened

    def step(self) -> None:
        """One token for each sequence."""
        outputs, left = [], []
        for seq, (admit, seed, count) in list(self.sequences.items()):
            token = token_of(admit.prompt[-1], seed, count)
            outputs.append(Output(seq, token, logprob_of(token)))
            self.sequences[seq] = admit, seed, count + 1
            if count + 1 >= admit.params.max_new_tokens:
                left.append(seq)
                del self.sequences[seq]
        frame = Stepped(outputs=outputs, left=left, free_slots=0, free_blocks=9, steps=0, compilations=0)
        self._happened.append(frame)

    def fail(self) -> int | None:
        """Give up the oldest sequence; its prompt."""
        if not self.sequences:
            return None
        seq = min(self.sequences)
        self._happened.append(SequenceFailed(seq=seq, error="the step failed"))
        return self.sequences.pop(seq)[0].prompt[-1]

    def die(self) -> None:
        """And another is started."""
        self.sequences.clear()
        self._happened.append(Died("it is told so"))
        self.restarts += 1


class Sender:
    """What `dispatch` sends by, in Celery's place."""

    def __init__(self, client: Client) -> None:
        self._queue = TaskQueue(client, QUEUE)

    def send_task(self, name: str, *, task_id: str, **_: Any) -> None:
        put(self._queue, task_id)


_tags = iter(range(10**8, 10**9))


def put(queue: TaskQueue, job_id: str, request: dict[str, Any] | None = None) -> None:
    """Queue a message; one that carries its request is a plain producer's."""
    tag = f"tag{next(_tags)}"
    message = {"headers": {"id": job_id}, "properties": {"delivery_tag": tag}, "body": request}
    queue.put(job_id, tag, json.dumps(message))


class Worker:
    """`said` hears what Celery is told of a job, `unheld` whom the reconciler finds nowhere, before it acts."""

    def __init__(
        self, server: Server, said: Callable[[str, Verdict], None], unheld: Callable[[Suspect], None]
    ) -> None:
        self._said, self._unheld = said, unheld
        self._loop, self._finisher = Client.of(server), Client.of(server)
        self._busy = False
        """Celery's loop does not get to start what it takes next."""
        self._taken: list[tuple[str, str, Any]] = []
        self._verdicts: deque[tuple[str, str, Verdict]] = deque()
        self._tags: set[str] = set()
        self.boot = self._boot(server)
        self.engine = Engine()
        self.inbox = Inbox()
        self._pipeline = Pipeline(server.url, 5)
        clerk = Clerk(self._pipeline, RESULT_TTL, QUEUE, lambda: self.boot.id)
        intake: Any = Intake()
        config = Config(queue=QUEUE, served_model_name="m", lease_seconds=LEASE, result_ttl=RESULT_TTL)
        self.jobs = Jobs(config, clerk, intake, self.engine.send, lambda: None, Meter("m", "host"))
        supervisor: Any = self.engine
        self.publisher = Publisher(self.jobs, self.inbox, self._pipeline, supervisor, intake, self._give_up)
        self._connect_boot()
        self.reconciler = self._reconciler(server)
        self._operations: dict[str, Operation] = {}
        self._threads: dict[str, Callable[[], object]] = {
            "boot": self._live,
            "loop": self._take,
            "publisher": self._publish,
            "finisher": self._finish,
            "reconciler": self._reconcile,
        }

    def _boot(self, server: Server) -> Boot:
        boot: Any = Boot(server.url, LEASE)
        client = boot._redis = boot._boots.redis = Client.of(server)
        boot._reaper = Reaper(client, LEASE, server.clock.monotonic)
        boot._reaper._boots.reap = partial(boot._reaper._boots.reap, most=1)  # it takes several turns
        boot._stop.set()  # its pauses are no pauses
        boot._thread = SimpleNamespace(ident=1, join=lambda _: None)
        boot._hints = SimpleNamespace(stop=lambda: None, listen_anew=lambda: None)
        made: Boot = boot
        return made

    def _connect_boot(self) -> None:
        """As worker.process does."""
        self.boot.room = self._room
        self.boot.on_tick = self.publisher.tick
        self.boot.on_hint = lambda job_id: self.publisher.look_at([job_id])
        self.boot.on_elsewhere = self.publisher.look_at
        self.boot.on_new_boot = lambda old, new: self.publisher.new_boot()
        self.boot.watch(QUEUE)

    def _reconciler(self, server: Server) -> Reconciler:
        client = Client.of(server)
        send = partial(dispatch, Sender(client))
        made: Any = Reconciler(client, RESULT_TTL, send, self.boot)
        self.boot.on_writes_lost = made.writes_lost
        look = made._open.unheld

        def unheld(suspects: list[Suspect]) -> list[bool]:
            answers: list[bool] = look(suspects)
            for suspect in compress(suspects, answers):
                self._unheld(suspect)
            return answers

        made._open.unheld = unheld
        reconciler: Reconciler = made
        return reconciler

    def _give_up(self, reason: str) -> None:
        raise AssertionError(reason)

    # Steered by the model

    def work(self, thread: str, commands: int) -> None:
        """Let so many commands of this thread through: of the turn in which it was stopped, or of a new one."""
        if thread == "engine":
            self.engine.step()
        elif thread == "busy":
            self._busy = True
        elif thread == "all":
            for each in ("boot", "loop", "publisher", "engine", "publisher", "finisher", "finisher", "boot"):
                if each not in self._operations:  # it has stopped, and others go on
                    self.work(each, ALL)
        elif operation := self._operations.pop(thread, None):
            self._go(thread, operation, commands)
        elif commands == ALL:
            self._threads[thread]()
        else:
            self._go(thread, Operation(self._threads[thread]), commands)

    def _go(self, thread: str, operation: Operation, commands: int) -> None:
        operation.go(commands)
        if not operation.done:
            self._operations[thread] = operation

    def go_on(self) -> None:
        """Every thread that has stopped gets to the end of its turn."""
        for thread in self.stopped():
            self.work(thread, ALL)

    def stopped(self) -> list[str]:
        """Its threads that are amid a turn."""
        return list(self._operations)

    def disconnect(self, thread: str, fate: Fate) -> None:
        """That thread's connection breaks."""
        operation = self._operations[thread]
        operation.disconnect(fate)
        if operation.done:
            del self._operations[thread]

    def die(self, fate: Fate) -> None:
        """kill -9."""
        for operation in self._operations.values():
            operation.kill(fate)
        self._operations.clear()
        self.inbox.close()

    def leave(self) -> None:
        """SIGTERM, and what runs is handed over."""
        self.go_on()
        self.publisher.draining = True
        self.boot.forget_idle([tag for tag, *_ in self._taken])
        self.inbox.put(self.jobs.hand_over)
        self._publish()
        while self._verdicts:
            self._finish()
        self.boot.leave()
        self.inbox.close()

    def knows(self, job_id: str) -> bool:
        """Whether it could tell Redis all about the job."""
        return any(a.generation for a in self.jobs.roster.held if a.job_id == job_id)

    @property
    def idle(self) -> bool:
        return not (self.jobs.roster.held or self.boot.held or self.boot.untold or self._verdicts)

    # Its threads

    def _live(self) -> None:
        self.boot._next_tick = 0.0
        try:
            self.boot._turn()
        except RedisError as error:
            self.boot._lose_sight(error)

    def _reconcile(self) -> None:
        with suppress(RedisError):
            self.reconciler.turn()

    def _publish(self) -> None:
        self._pipeline._retry_at = 0.0
        if self.engine.opened != self.engine.restarts and not self.engine._happened:
            self.engine.opened = self.engine.restarts
            self.publisher._opened(Shop(self.engine.restarts, READY, "m", tokenizer(), ""))
        self.publisher._turn()

    def _room(self) -> int:
        return self.publisher.room(1)

    def _take(self) -> None:
        """Celery's loop: what was taken is started, then more is taken, as wire.transport does it."""
        self._start()
        if self._room():
            try:
                self._pop()
            except RedisError:
                self.boot.resync()
                self.boot.forget_idle(self._tags)
                self._taken.clear()
        if not self._busy:
            self._start()
        self._busy = False

    def _pop(self) -> None:
        ask = self.boot.ask()
        reply = queue.POP(self._loop, *pop_args(ask.boot, self._room(), ask.resync, [QUEUE]))
        if reply is None:
            self.boot.lost(ask.boot)
            return
        popped = Popped(*reply)
        for records, fresh in ((popped.owned, False), (popped.taken, True)):
            for record in map(Record.parse, records):
                if self.boot.take(Delivery(ask.boot, record.queue, record.task, record.tag), fresh):
                    self._tags.add(record.tag)
                    self._taken.append((record.tag, record.task, json.loads(record.body)["body"]))
        self.boot.answered(ask, popped)

    def _start(self) -> None:
        """As worker.pool does."""
        taken, self._taken = self._taken, []
        for tag, job_id, request in taken:
            self.boot.mark_running(tag)
            settle = partial(self._settle, tag, job_id)
            body = ((), request) if request else None
            self.publisher.deliver(Assignment(job_id=job_id, settle=settle, body=body))

    def _settle(self, tag: str, job_id: str, verdict: Verdict) -> None:
        self._verdicts.append((tag, job_id, verdict))

    def _finish(self) -> None:
        """As worker.pool does: the result is stored, then the message acked."""
        if not self._verdicts:
            return
        tag, job_id, verdict = self._verdicts.popleft()
        try:
            self._say(tag, job_id, verdict)
        except RedisError:
            self.boot.restore(tag)
        self._tags.discard(tag)

    def _say(self, tag: str, job_id: str, verdict: Verdict) -> None:
        match verdict:
            case Completed() | Broken() | Withdrawn():
                self._said(job_id, verdict)
                self._finisher.set(result_key(job_id), type(verdict).__name__, ex=int(RESULT_TTL))
                self.boot.ack(tag)
            case Settled():
                self.boot.ack(tag)
            case Returned():
                self.boot.restore(tag)
            case Left():
                self.boot.drop(tag)
