"""The model's world: a fleet and its clients around one Redis, and all that may happen there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redis.exceptions import RedisError

from gateway.admission import Admission
from gateway.config import Config
from gateway.errors import Unavailable
from tests.integration.protocol.operation import ALL, Fate, Operation
from tests.integration.protocol.reading import Reading
from tests.integration.protocol.server import Client, Server
from tests.integration.protocol.worker import (
    LEASE,
    QUEUE,
    RESULT_TTL,
    STOP,
    Sender,
    Worker,
    logprob_of,
    put,
    token_of,
)
from wire.commands import record_command
from wire.errors import JobNotFound
from wire.job import Job, SamplingParams, choice_seed
from wire.keys import GATEWAYS, LIVE, OPEN, UNACKED_PREFIX, job_key, log_key, queue_keys
from wire.ledger import Ledger
from wire.open import Gateways, Suspect, spread
from wire.queue import Record as Message
from wire.queue import TaskQueue
from wire.record import Record, parse_record
from wire.resp import RespConnection
from worker.assignment import Verdict

SEED = 1


@dataclass(frozen=True)
class Several:
    """How many texts a job has."""

    n: int = 1
    best_of: int = 1

    @property
    def ranked(self) -> bool:
        """Whether nothing is told before the end."""
        return self.best_of > 1

    @property
    def candidates(self) -> int:
        return max(self.n, self.best_of)


@dataclass(eq=False)
class Promise:
    """A job as those know it who asked for it."""

    id: str
    letter: int
    """Its prompt, which is one letter."""
    length: int
    """Tokens of a text, at most."""
    several: Several = Several()
    gateway: str = ""
    plain: bool = False
    """Its producer knows only Celery: a message is all there is before it is claimed."""
    strict: bool = False
    """It was to be kept by the replica, too."""
    accepted: bool = False
    busy: int = 0
    """Requests for it that have not been answered."""
    cancelled: bool = False
    overdue: bool = False
    broken: bool = False
    """A step of the engine's failed it."""
    unwanted: bool = False
    """Somebody asked to delete it."""
    deleted: bool = False
    ended: Record | None = None
    """Its end, once seen: it never changes."""
    attempt: int = 0
    lost: bool = False
    """A failover took it from all who knew it."""
    known_to: set[Worker] | None = None
    """After a failover to a replica that had not heard of it: who could put it back."""
    reading: Reading = field(default_factory=Reading)

    @property
    def candidates(self) -> list[list[int]]:
        """All its texts."""
        return [self._text(choice_seed(SEED, number)) for number in range(self.several.candidates)]

    @property
    def texts(self) -> list[list[int]]:
        """Those that its client gets, in order."""
        texts = self.candidates
        if self.several.ranked:
            texts.sort(key=lambda text: -sum(map(logprob_of, text)) / len(text))
        return texts[: self.several.n]

    @property
    def stop(self) -> list[str]:
        return [STOP] if self.several.candidates > 1 else []

    def _text(self, seed: int) -> list[int]:
        text = [token_of(self.letter, seed, position) for position in range(self.length)]
        return text[: text.index(ord(STOP)) + 1] if self.stop and ord(STOP) in text else text


class World(ABC):
    """One story. What goes wrong in it is for the model to say."""

    def __init__(self, server: Server) -> None:
        server.reset()
        self.server = server
        self.promises: list[Promise] = []
        self.requests: list[tuple[Operation, Promise]] = []
        self.workers: list[Worker] = []
        self.mortal: set[bytes] = set()
        """Boots whose lease may have ended."""
        self.calm = True
        """No failover has changed the past."""
        self._gateway = 0
        self._live = RespConnection(server.url)
        self._live.call([("PSUBSCRIBE", "sagrada:*:tokens")])
        self._renew_gateways()
        for _ in range(2):
            self.start_worker()

    def close(self) -> None:
        for operation, _ in self.requests:
            operation.kill(Fate.UNSENT)
        for worker in self.workers:
            worker.die(Fate.UNSENT)
        self._live.close()

    def start_worker(self) -> None:
        worker = Worker(self.server, self.heard, self.unheld)
        worker.work("boot", ALL)
        worker.work("publisher", ALL)
        self.workers.append(worker)

    # What clients and gateways do

    def request(self, promise: Promise, work: Callable[[], object], commands: int) -> None:
        """Begin what a client asked for, and let so many of its commands through."""
        promise.busy += 1
        self.requests.append((Operation(work), promise))
        self.go_on(len(self.requests) - 1, commands)

    def go_on(self, number: int, commands: int) -> None:
        operation, _ = self.requests[number]
        operation.go(commands)
        self._forget_request(number)

    def break_request(self, number: int, fate: Fate, dies: bool) -> None:
        """A gateway's connection breaks, or it dies."""
        operation, _ = self.requests[number]
        (operation.kill if dies else operation.disconnect)(fate)
        self._forget_request(number)

    def _forget_request(self, number: int) -> None:
        operation, promise = self.requests[number]
        if operation.done:
            del self.requests[number]
            promise.busy -= 1

    def promise(
        self,
        length: int,
        several: Several = Several(),
        *,
        bound: bool = False,
        strict: bool = False,
        plain: bool = False,
    ) -> Promise:
        number = len(self.promises)
        gateway = f"gateway{self._gateway}" if bound else ""
        made = Promise(f"job{number}", ord("A") + number, length, several, gateway, plain, strict)
        self.promises.append(made)
        return made

    def submit(self, promise: Promise, tokenised: bool) -> None:
        """What a gateway does before it says 202: the real admission, sending in Celery's place."""
        several = promise.several
        params = SamplingParams(
            max_new_tokens=promise.length,
            seed=SEED,
            n=several.n,
            best_of=several.best_of,
            stop=tuple(promise.stop),
        )
        prompt: dict[str, Any] = {"ids": (promise.letter,)} if tokenised else {"inputs": chr(promise.letter)}
        job = Job(id=promise.id, model="m", params=params, gateway=promise.gateway, **prompt)
        config = Config(durability="strict" if promise.strict else "relaxed", durability_replicas=1)
        client, epoch = self.gateway_client(), self.server.epoch
        ledger = Ledger(client, RESULT_TTL)
        nothing: Any = None
        sender: Any = Sender(self.gateway_client())
        withdraw = partial(self._withdraw, client, ledger)
        admission = Admission(config, client, ledger, nothing, sender, withdraw, nothing, nothing)
        try:
            admission._keep(job, QUEUE, "digest")
        except (RedisError, Unavailable):
            return
        self._accepted(promise, epoch)

    def produce(self, promise: Promise) -> None:
        """A plain Celery producer: its message is all there is."""
        epoch = self.server.epoch
        wanted = {
            "max_new_tokens": promise.length,
            "seed": SEED,
            "n": promise.several.n,
            "stop": promise.stop,
        }
        request = {"inputs": chr(promise.letter), "parameters": wanted}
        try:
            put(TaskQueue(self.gateway_client(), QUEUE), promise.id, request)
        except RedisError:
            return
        self._accepted(promise, epoch)

    def _accepted(self, promise: Promise, epoch: int) -> None:
        promise.accepted = True
        if epoch != self.server.epoch and not promise.strict and not self.keeps(promise):
            promise.lost = True  # between its record and the answer

    def gateway_client(self) -> Client:
        """As gateway.service connects."""
        return Client.of(self.server, retries=1)

    def _withdraw(self, client: Client, ledger: Ledger, job_id: str, queue: str) -> None:
        try:
            if ledger.withdraw(job_id):
                TaskQueue(client, queue).remove(job_id)
        except RedisError:
            pass

    def cancel(self, promise: Promise) -> None:
        client = self.gateway_client()
        promise.cancelled = True
        with suppress(RedisError, JobNotFound):
            spread(client, promise.id, Ledger(client, RESULT_TTL).cancel(promise.id))

    def delete(self, promise: Promise) -> None:
        promise.unwanted = True
        with suppress(RedisError):
            Ledger(self.gateway_client(), RESULT_TTL).delete(promise.id)

    def _renew_gateways(self) -> None:
        self.server.redis.delete(GATEWAYS)
        Gateways(self.server.redis).renew(f"gateway{self._gateway}", 1e6)

    def read(self, promise: Promise) -> None:
        promise.reading.catch_up(self.gateway_client(), promise.id)

    # What goes wrong, and what time brings

    def gateway_dies(self) -> None:
        self._gateway += 1
        self._renew_gateways()

    def worker_dies(self, worker: Worker, fate: Fate) -> None:
        worker.die(fate)
        self._replace(worker)

    def worker_leaves(self, worker: Worker) -> None:
        worker.leave()
        self.mortal.add(worker.boot.id.encode())
        self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.start_worker()
        for promise in self.promises:
            if promise.known_to and worker in promise.known_to:
                promise.known_to.discard(worker)
                if self.keeps(promise):
                    promise.known_to = None
                elif not promise.known_to:
                    promise.lost = True

    def lease_ends(self, boot: bytes) -> None:
        self.mortal.add(boot)
        self.server.redis.zadd(LIVE, {boot: 0}, xx=True)
        self.server.clock.now += 2 * LEASE + 1  # for a reaper that is quiet

    def boots(self) -> list[bytes]:
        """Those with a lease."""
        found: list[bytes] = self.server.redis.zrange(LIVE, 0, -1)
        return found

    def open(self) -> list[str]:
        """The jobs that have a record and no end."""
        return [job_id.decode() for job_id in self.server.redis.zrange(OPEN, 0, -1)]

    def time_passes(self) -> None:
        self.server.clock.now += 4 * LEASE
        for job_id in self.open():
            self.server.redis.zadd(OPEN, {job_id: 0})

    def deadline_passes(self, promise: Promise) -> None:
        promise.overdue = True
        if promise.id in self.open():
            self.server.redis.hset(job_key(promise.id), "deadline", 1)
        for worker in self.workers:
            for assignment in worker.jobs.roster.held:
                if assignment.generation and assignment.job_id == promise.id:
                    assignment.generation.deadline = 1

    def sequence_fails(self, worker: Worker) -> None:
        letter = worker.engine.fail()
        for promise in self.promises:
            promise.broken = promise.broken or promise.letter == letter

    def fail_over(self) -> None:
        boots = self.boots()
        self.server.fail_over()
        self.calm = False
        self._renew_gateways()
        self.mortal |= {*boots} ^ {*self.boots()}
        for promise in self.promises:
            record = self.look([promise])[0][1]
            promise.ended = record if record and record.terminal else None
            promise.attempt, promise.known_to = 0, None
            knowing = {worker for worker in self.workers if worker.knows(promise.id)}
            # What is deleted comes back if the deletion was lost, too.
            promise.deleted = promise.deleted and not self.keeps(promise) and not knowing
            promise.reading.disconnected()
            if promise.overdue:
                self.deadline_passes(promise)
            if promise.accepted and not promise.deleted and not self.keeps(promise):
                promise.known_to = knowing
                promise.lost = promise.lost or not knowing

    def keeps(self, promise: Promise) -> bool:
        """Whether Redis has what it takes to run the job."""
        recorded = bool(self.server.redis.exists(job_key(promise.id)))
        return recorded or (promise.plain and promise.id in self.messages())

    def messages(self) -> list[str]:
        """The jobs that there are messages of, queued or unacked."""
        redis = self.server.redis
        unacked = [value for key in redis.keys(UNACKED_PREFIX + "*") for value in redis.hvals(key)]
        queued: list[bytes] = redis.hkeys(queue_keys(QUEUE)[1])
        return [id.decode() for id in queued] + [Message.parse(value).task for value in unacked]

    def look(self, promises: list[Promise]) -> list[tuple[list[Any], Record | None, list[int]]]:
        keys = [(job_key(p.id), log_key(p.id)) for p in promises]
        commands = [
            command
            for p, (job, log) in zip(promises, keys, strict=True)
            for command in (("XRANGE", log, "-", "+"), record_command(p.id), ("PTTL", job), ("PTTL", log))
        ]
        replies = self.server.raw.call(commands)
        each = zip(*(replies[i::4] for i in range(4)), strict=True)
        return [(rows, parse_record(fields), [job, log]) for rows, fields, job, log in each]

    @abstractmethod
    def heard(self, job_id: str, verdict: Verdict) -> None:
        """A worker tells Celery what became of the job."""

    @abstractmethod
    def unheld(self, suspect: Suspect) -> None:
        """A reconciler takes the job for lost: now, for it may be found again before it is queued."""
