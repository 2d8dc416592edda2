"""From a request to a queued job: parse, count, record first, queue second."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import redis
from celery import Celery

from gateway.auth import caller
from gateway.config import Config
from gateway.durability import Durability
from gateway.errors import BACKEND_DOWN, Unavailable
from gateway.fleet import Fleet, Model
from gateway.rates import Meter, cost
from gateway.waiting_room import WaitingRoom
from wire.dispatch import dispatch
from wire.errors import ValidationError
from wire.job import Job, new_job_id
from wire.keys import SECRET
from wire.ledger import Ledger
from wire.record import Record
from wire.request import TGI, Bounds, GenerateRequest, to_job
from wire.tokenizer import Tokenizer
from wire.transport import broker_url

log = logging.getLogger("sagrada.gateway")

TOKENISE_UP_TO = 64 * 1024
"""Bytes of prompt that are tokenised here; longer ones cost too much of a gateway and are counted by the worker."""

MAX_KEY = 255
"""Longest Idempotency-Key, characters."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A job that may be accepted: nothing is wrong with it, and nothing of it is kept yet."""

    job: Job
    request: GenerateRequest
    model: Model
    tokenizer: Tokenizer

    @property
    def cost(self) -> int:
        """Tokens that it may come to."""
        return cost(self.job, self.model.limits)

    @property
    def open_ended(self) -> bool:
        """Whether nobody said how many."""
        return self.request.params.max_new_tokens is None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that has been recorded and queued."""

    job: Job
    record: Record
    request: GenerateRequest
    model: Model
    tokenizer: Tokenizer

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        inputs = self.request.inputs
        return inputs if isinstance(inputs, str) else self.tokenizer.decode(inputs, skip_special_tokens=False)


def sender(config: Config, timeout: float) -> Celery:
    """A Celery app that only sends: no result backend, since the gateway reads the ledger."""
    app = Celery("sagrada.gateway", broker=broker_url(config.redis_url), set_as_current=False)
    app.conf.update(
        broker_pool_limit=config.gateway_threads,
        broker_connection_timeout=1,
        broker_transport_options={
            "socket_timeout": timeout,
            "socket_connect_timeout": 1,
            "max_connections": 1000,
        },
        task_ignore_result=True,
    )
    return app


def canonical(body: bytes) -> str:
    """The digest of a JSON body, whatever the order of its keys or its white space."""
    return hashlib.sha256(msgspec.json.encode(msgspec.json.decode(body), order="sorted")).hexdigest()


def ticket(request: GenerateRequest, tenant: str) -> str:
    """What tells this request from others in the line before a full queue; the same when it comes again."""
    return hashlib.blake2b(msgspec.json.encode((tenant, request)), digest_size=16).hexdigest()


def _short(inputs: str | list[int]) -> bool:
    return len(inputs) <= TOKENISE_UP_TO and not (
        isinstance(inputs, str) and len(inputs.encode(errors="surrogatepass")) > TOKENISE_UP_TO
    )


class Admission:
    """Takes requests in, in the name of whoever sent what is being answered (gateway/auth.py).

    What it raises is the client's answer; then nothing was accepted.
    """

    def __init__(
        self,
        config: Config,
        client: redis.Redis,
        ledger: Ledger,
        fleet: Fleet,
        app: Celery,
        withdraw: Callable[[str, str], None],
        cancel: Callable[[str], None],
        validated: Callable[[float], None],
    ) -> None:
        """`withdraw` removes the record and message (job id, queue) of one that was not accepted, sooner or later.

        `cancel` ends one that nobody will ask for; `validated` hears how many seconds a request's validation took.
        """
        self._config, self._redis, self._ledger, self._fleet = config, client, ledger, fleet
        self._app, self._withdraw, self._cancel, self._validated = app, withdraw, cancel, validated
        self._durability = Durability(config)
        self._room = WaitingRoom(client, config.max_queued)
        self._meter = Meter(client)
        self.gateway_id = new_job_id()
        """This process, in the jobs that are bound to its connections."""

    def accept(
        self,
        request: GenerateRequest,
        *,
        job_id: str | None = None,
        digest: str = "",
        bounds: Bounds = TGI,
        stream: bool = False,
        bound: bool = False,
    ) -> Accepted:
        """Record and queue a job. With the id and digest of an earlier one: that one, whatever its state."""
        planned = self._plan(request, job_id, bounds, stream, bound)
        again = job_id is not None and caller().limited and self._ledger.record(job_id) is not None
        self._meter.charge(caller(), 0 if again else planned.cost, planned.open_ended)
        return self._begin(planned, digest)

    def accept_all(
        self, requests: Sequence[GenerateRequest], *, bounds: Bounds = TGI, bound: bool = False
    ) -> list[Accepted]:
        """The jobs of one body, all of them or none: those that were queued before one failed are cancelled."""
        planned = [self._plan(request, None, bounds, False, bound) for request in requests]
        open_ended = any(each.open_ended for each in planned)
        self._meter.charge(caller(), sum(each.cost for each in planned), open_ended)
        begun: list[Accepted] = []
        try:
            for each in planned:
                begun.append(self._begin(each))
        except Exception:
            for accepted in begun:
                self._cancel(accepted.job.id)
            raise
        return begun

    def _plan(
        self, request: GenerateRequest, job_id: str | None, bounds: Bounds, stream: bool, bound: bool
    ) -> Planned:
        """The job, if there is nothing wrong with it and room for it."""
        tenant, began = caller().tenant, time.monotonic()
        model = self._fleet.model(request.model)
        tokenizer = self._fleet.tokenizer(model)
        job = to_job(
            request,
            replace(model.limits, bounds=bounds),
            job_id=job_id or new_job_id(),
            model=model.name,
            encode=tokenizer.encode if _short(request.inputs) else None,
            stream=stream,
            tenant=tenant,
            gateway=self.gateway_id if bound else "",
        )
        self._validated(time.monotonic() - began)
        self._room.check(model.queue, job_id or ticket(request, tenant))
        return Planned(job, request, model, tokenizer)

    def _begin(self, planned: Planned, digest: str = "") -> Accepted:
        job, model = planned.job, planned.model
        record = self._keep(job, model.queue, digest)
        return Accepted(job, record, planned.request, model, planned.tokenizer)

    def _keep(self, job: Job, queue: str, digest: str) -> Record:
        """Record, queue, and make sure of it if that was asked for; what raises has been withdrawn."""
        if not self._durability.strict:
            _, record = self._ledger.submit(job, queue, digest)
            self._send(job, record)
            return record
        with self._redis.client() as connection:
            created, record = Ledger(connection, self._config.result_ttl).submit(job, queue, digest)
            self._send(job, record)
            try:
                self._durability.ensure(connection)
            except (*BACKEND_DOWN, Unavailable):
                if created:
                    self._withdraw(job.id, queue)
                raise
        return record

    def keyed(self, key: str | None, body: bytes) -> tuple[str | None, str]:
        """(job id, digest) of a request with this Idempotency-Key; (None, "") without one."""
        if key is None:
            return None, ""
        if not 0 < len(key) <= MAX_KEY:
            raise ValidationError(f"`Idempotency-Key` must have 1 to {MAX_KEY} characters. Given: {len(key)}")
        name = f"{caller().tenant}\0{key}".encode()  # no tenant's name has a NUL
        return hmac.new(self._secret, name, hashlib.sha256).hexdigest()[:32], canonical(body)

    @cached_property
    def _secret(self) -> bytes:
        """The same for all gateways of a Redis, whoever came first."""
        if self._config.sagrada_secret:
            return self._config.sagrada_secret.encode()
        self._redis.set(SECRET, secrets.token_bytes(32), nx=True)
        found = self._redis.get(SECRET)
        assert isinstance(found, bytes), "the secret never expires"
        return found

    def _send(self, job: Job, record: Record) -> None:
        """Queue what waits. The record is the promise: a reconciler sends what could not be sent now."""
        if record.state != "queued":
            return
        try:
            dispatch(self._app, job, record.queue)
        except (*BACKEND_DOWN, OSError) as error:
            log.warning("job %s is recorded but not queued yet: %s", job.id, error)
