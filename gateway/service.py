"""What all views of one gateway process share, and its life from fork to drain."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.admission import Admission, sender
from gateway.catchup import CatchUp
from gateway.clock import Clock
from gateway.config import Config
from gateway.counts import Counts
from gateway.detach import Poller
from gateway.errors import TooManyStreams, Unavailable
from gateway.fleet import Fleet
from gateway.hub import Hub
from gateway.strict import quirks
from wire.errors import JobNotFound
from wire.keys import streams_key
from wire.ledger import Ledger
from wire.open import Gateways, spread
from wire.queue import TaskQueue
from wire.record import Record
from wire.redis_url import ask_for_master, client
from wire.request import Bounds
from wire.totals import Account

log = logging.getLogger("sagrada.gateway")

REDIS_TIMEOUT = 1.5
"""Seconds that one answer of Redis may take: what a request waits at most before it is told 503."""

CHORES = 4
"""Threads for what nobody waits for: cancelling for clients that left, the last look at a record."""

LEASE = 15.0
"""Seconds that a gateway counts as alive after it was last heard of; then the jobs of its connections are cancelled."""

LEAVING = "the gateway is shutting down; send the request again"

WATCH = 2.0
"""Seconds between two questions to the sentinels, if there are any, who the master is."""

COUNTING = 2.0
"""Seconds between two additions to the fleet's totals."""

PATIENCE = 60
"""Attempts, a second apart, to cancel a job that nobody wants while Redis is away."""


def connect(config: Config) -> redis.Redis:
    """A client whose every call ends soon: bounded pool, bounded waits, one retry on a stale connection."""
    return client(
        config.redis_url,
        blocking=True,
        max_connections=config.gateway_threads + CHORES + 4,
        timeout=1,
        socket_timeout=REDIS_TIMEOUT,
        socket_connect_timeout=1,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
        decode_responses=False,
    )


class Gateway:
    """One process's connections, threads and verbs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.quirks = quirks(config.tgi_strict)
        """What the routes copy of TGI that they would rather not."""
        self.bounds = Bounds(
            stop_sequences=config.max_stop_sequences,
            best_of=config.max_best_of,
            top_n_tokens=config.max_top_n_tokens,
            cut_to_fit=self.quirks.cut_to_fit,
        )
        """What TGI's routes take, and /jobs."""
        self.leaving = False
        """Nobody can connect any more: who still asks, on a connection kept alive, is not to wait here."""
        self.redis = connect(config)
        self.ledger = Ledger(self.redis, config.result_ttl)
        self.fleet = Fleet(self.redis)
        self.clock = Clock()
        self.poller = Poller(self.clock) if hasattr(select, "epoll") else None
        self.catch_up = CatchUp(self.redis)
        self.hub = Hub(config.redis_url, self.clock, self.catch_up)
        self.counts = Counts()
        self._account, self._publishing = Account(self.redis, self.counts.tally), threading.Lock()
        self.admission = Admission(
            config,
            self.redis,
            self.ledger,
            self.fleet,
            sender(config, REDIS_TIMEOUT),
            self.withdraw,
            self.cancel_soon,
            self.counts.validated,
        )
        self._chores = ThreadPoolExecutor(CHORES, thread_name_prefix="chore")
        self._gateways = Gateways(self.redis)
        self._master: tuple[str, int] | None = None

    def start(self) -> None:
        """Start the threads; once per process, after the fork."""
        self.clock.start()
        if self.poller is not None:
            self.poller.start()
        self.catch_up.start()
        self.hub.start()
        self._live()
        self.clock.every(LEASE / 3, self._live)
        self.clock.every(WATCH, lambda: self.chore(self._watch))
        self.clock.every(COUNTING, lambda: self.chore(self._try_publishing))

    def _live(self) -> None:
        """Renew this process's lease, soon."""
        self.chore(lambda: self._gateways.renew(self.admission.gateway_id, LEASE))

    def publish_counts(self) -> None:
        """Add what this process has counted to the fleet's totals; RedisError."""
        with self._publishing:
            self.counts.reconnected(max(0, self.hub.connections - 1))
            self._account.publish()
            self.redis.set(streams_key(self.admission.gateway_id), len(self.hub), px=int(LEASE * 1000))

    def streams(self) -> dict[str, int]:
        """How many streams each gateway process holds; RedisError."""
        names = sorted(self._gateways.live() | {self.admission.gateway_id})
        counts: Any = self.redis.mget([streams_key(name) for name in names])
        return {name: int(n) for name, n in zip(names, counts, strict=True) if n is not None}

    def _try_publishing(self) -> None:
        with suppress(redis.RedisError):  # the counts are kept, and told later
            self.publish_counts()

    def _watch(self) -> None:
        """Follow the sentinels, if there are any, to another master."""
        before, master = self._master, ask_for_master(self.redis)
        self._master = master or before
        if before is not None and self._master != before:
            log.warning("the sentinels name another master")
            self.hub.connect_anew()

    @property
    def has_room(self) -> bool:
        """Whether one more client may wait here."""
        return not self.leaving and len(self.hub) < self.config.max_streams

    def admit_stream(self) -> None:
        """Raise TooManyStreams if this process holds as many as it may, Unavailable if it is about to go."""
        if self.leaving:
            raise Unavailable(LEAVING)
        if not self.has_room:
            raise TooManyStreams(
                "Model is overloaded: this gateway holds as many open streams as it may (MAX_STREAMS); try again"
            )

    def chore(self, work: Callable[[], None]) -> None:
        """Do this soon, in another thread; not any more once the process has drained."""
        with suppress(RuntimeError):
            self._chores.submit(self._attempt, work)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # nobody waits for the future: the log is the only place to say it
            log.exception("a chore failed")

    def cancel(self, job_id: str) -> Record:
        """End the job as cancelled if it has not ended, and let its worker or its queue know; JobNotFound."""
        stopped = self.ledger.cancel(job_id)
        if stopped.unbegun:
            self.counts.cancelled_unbegun()
        spread(self.redis, job_id, stopped)
        return stopped.record

    def cancel_soon(self, job_id: str) -> None:
        """Cancel without waiting: its client has left."""
        self._insist(lambda: self.cancel(job_id))

    def withdraw(self, job_id: str, queue: str) -> None:
        """Make as if the job had never been submitted: it is not as durable as was promised."""

        def work() -> None:
            if self.ledger.withdraw(job_id):
                TaskQueue(self.redis, queue).remove(job_id)

        self._insist(work)

    def _insist(self, work: Callable[[], object], attempts: int = PATIENCE) -> None:
        """Do it now or, while Redis is away, again each second for a while."""

        def attempt() -> None:
            try:
                work()
            except JobNotFound:
                pass
            except redis.RedisError:
                if attempts > 1:
                    self.clock.after(1, lambda: self._insist(work, attempts - 1))

        self.chore(attempt)

    def leave(self) -> None:
        """The process is told to go: what can go on elsewhere is ended now, and nothing more is begun that waits."""
        self.leaving = True
        for subscriber in self.hub.subscribers():
            if not subscriber.bound:
                subscriber.abandon()

    def drain(self) -> None:
        """Wait for what is bound to its connection to end, as long as DRAIN_TIMEOUT; what has not is cancelled."""
        self.leave()  # once more: a stream may have been about to begin
        self._wait(lambda: not len(self.hub), self.config.drain_timeout)
        for subscriber in self.hub.subscribers():
            subscriber.abandon()
        self.chore(self._try_publishing)
        self._insist(lambda: self._gateways.leave(self.admission.gateway_id), attempts=1)
        self._chores.shutdown()
        poller = self.poller
        if poller is not None:
            self._wait(lambda: not len(poller), 2)

    @staticmethod
    def _wait(done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            time.sleep(0.02)
