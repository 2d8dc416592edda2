"""One worker process: boot, engine, publisher and registry entry, put together. Knows nothing of Celery."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from models.environment import GAUDI_PLUGIN, recipes_folder
from models.step import LoadSpec
from wire.metrics import COUNTS
from wire.owner import set_owner
from wire.registry import Registry, WorkerInfo, WorkerState
from wire.tokenizer import read_files
from wire.totals import Account
from worker.assignment import Assignment
from worker.boot import Boot, connect
from worker.clerk import Clerk
from worker.config import NO_CACHE, Config
from worker.discovery import installed, kind_of
from worker.inbox import Inbox
from worker.intake import Intake, Shop
from worker.jobs import Jobs
from worker.launcher import EngineProcess
from worker.meter import Meter
from worker.pipeline import Pipeline
from worker.publisher import Publisher
from worker.reconciler import Reconciler, Send
from worker.seat import Seat
from worker.supervisor import Supervisor

log = logging.getLogger(__name__)

FAILED_TTL = 60.0
"""Seconds that the reason of a failure stays in the registry after the process has gone."""
HAND_OVER = 5.0
"""Seconds for giving jobs back at the end."""


class WorkerProcess:
    """Started by the pool, and stopped by it: `drain`, then `stop`."""

    def __init__(
        self,
        config: Config,
        seat: Seat,
        name: str,
        made_room: Callable[[], None],
        gave_up: Callable[[], None],
        send: Send,
    ) -> None:
        """`seat` is what its engine runs on, `name` the Celery node's.

        `made_room`: more jobs could come now. `gave_up`: the process is to end. `send` queues the message of a job
        that nobody holds.
        """
        self.config, self.seat, self.name = config, seat, name
        self.boot = Boot(config.redis_url, config.lease_seconds)
        self._end_process = gave_up
        self._redis = connect(config.redis_url, config.lease_seconds)
        self._registry = Registry(self._redis)
        host = name.rpartition("@")[2]
        self.meter = Meter(config.name, f"{host}-{seat.label}" if seat.label else host)
        self._error = ""
        self._started = time.time()
        self._publish_at = 0.0
        self._publishing = threading.Lock()
        self._publisher = self._make_publisher(made_room)
        self._reconciler = Reconciler(self._redis, config.result_ttl, send, self.boot)
        tallies = (*self.meter.tallies, self._reconciler.tally)
        self._accounts = [Account(self._redis, tally) for tally in tallies]
        self.boot.room = self.room
        self.boot.on_tick = self._tick
        self.boot.on_hint = lambda job_id: self._publisher.look_at([job_id])
        self.boot.on_elsewhere = self._publisher.look_at
        self.boot.on_redis_changed = self._redis_changed
        self.boot.on_writes_lost = self._reconciler.writes_lost
        self.boot.on_new_boot = self._new_boot

    def _make_publisher(self, made_room: Callable[[], None]) -> Publisher:
        config, inbox = self.config, Inbox()
        pipeline = Pipeline(config.redis_url, timeout=max(1.0, config.lease_seconds / 2))
        clerk = Clerk(pipeline, config.result_ttl, config.task_queue, lambda: self.boot.id)
        intake = Intake(self._registry, config.name, inbox.put)
        supervisor = Supervisor(
            partial(
                EngineProcess.start,
                load_spec(config, self.seat),
                patience=config.engine_patience,
                variables=self.seat.environment,
                cores=self.seat.cores,
            )
        )
        jobs = Jobs(config, clerk, intake, supervisor.send, made_room, self.meter)
        return Publisher(jobs, inbox, pipeline, supervisor, intake, self._gave_up)

    def start(self) -> None:
        """Take up the lease, start the engine; does not wait for either."""
        set_owner(self.boot)
        self.boot.start()
        self._publisher.start()
        self._reconciler.start()

    def room(self) -> int:
        """Jobs to take now."""
        return self._publisher.room(self.config.lookahead)

    def deliver(self, assignment: Assignment) -> None:
        """Take a job."""
        self._publisher.deliver(assignment)

    def drop(self, assignment: Assignment, hand_over: bool) -> None:
        """Stop a job: for good, or for another worker to go on."""
        self._publisher.drop(assignment, hand_over)

    def cancel(self, job_id: str) -> None:
        """End the record of a job whose message was revoked."""
        self._publisher.cancel(job_id)

    def drain(self) -> None:
        """Take nothing more; say so."""
        self._publisher.draining = True
        self._publish_at = 0.0

    def hand_over(self) -> bool:
        """Give back what still runs."""
        return self._publisher.hand_over(HAND_OVER)

    def stop(self) -> None:
        """End engine, lease and registry entry. What is still unacked returns to the queue."""
        self._reconciler.stop(HAND_OVER)
        self._publisher.stop(2 * HAND_OVER)
        self.boot.leave()  # it stays the owner: Celery closes its channels later
        with self._publishing:
            self._publish_at = float("inf")
            self._attempt(self._count)
            if not self._error:
                self._attempt(lambda: self._registry.remove(self.boot.id))

    # The boot's threads

    def _tick(self, now: int) -> None:
        self._publisher.tick(now)
        if time.monotonic() >= self._publish_at:
            self._publish_at = time.monotonic() + self.config.lease_seconds / 2
            self._publish(1.5 * self.config.lease_seconds)

    def _redis_changed(self) -> None:
        self._redis.connection_pool.disconnect(inuse_connections=False)
        self._publisher.connect_anew()

    def _new_boot(self, old: str, new: str) -> None:
        log.warning("the lease of boot %s was lost: going on as %s", old, new)
        self._publisher.new_boot()
        self._publish_at = 0.0
        self._attempt(lambda: self._registry.remove(old))

    # The registry

    def _gave_up(self, reason: str) -> None:
        self._error = reason
        self._publish(FAILED_TTL)
        self._end_process()

    def _publish(self, ttl: float) -> None:
        with self._publishing:
            if self._publish_at != float("inf"):
                self._attempt(lambda: self._registry.publish(self.info(), FAILED_TTL if self._error else ttl))
                self._attempt(self._count)
        if shop := self._publisher.jobs.shop:
            self._attempt(partial(self._keep_blob, shop))

    def _count(self) -> None:
        """Add what is new to the fleet's totals."""
        counted = self.counters() | {"starts": 1}
        self.meter.worker.update({COUNTS[name].name: value for name, value in counted.items()})
        for account in self._accounts:
            account.publish()

    def _keep_blob(self, shop: Shop) -> None:
        if not self._registry.touch_blob(shop.blob):
            self._registry.put_blob(read_files(shop.ready.folder))  # a Redis that lost its data

    def _attempt(self, call: Callable[[], object]) -> None:
        try:
            call()
        except RedisError as error:
            log.debug("registry: %s", error)

    @property
    def state(self) -> WorkerState:
        """As in the registry."""
        if self._error:
            return "failed"
        if self._publisher.draining:
            return "draining"
        return "serving" if self._publisher.jobs.serving else "loading"

    def info(self) -> WorkerInfo:
        """The registry entry as of now."""
        publisher = self._publisher
        return WorkerInfo(
            boot=self.boot.id,
            name=self.name,
            place=self.meter.worker.scope[1],
            model=self.config.name,
            queue=self.config.task_queue,
            state=self.state,
            stage=publisher.supervisor.stage,
            progress=publisher.supervisor.progress,
            error=self._error,
            running=len(publisher.jobs.roster.in_engine),
            max_tokens=publisher.jobs.roster.max_tokens,
            free=self.room(),
            most_unlogged=publisher.jobs.most_unlogged,
            started=self._started,
            counters=self.counters(),
            **self._model(),
        )

    def _model(self) -> dict[str, Any]:
        """What the engine has said of its model; empty before."""
        ready, stepped, shop = self._publisher.ready, self._publisher.stepped, self._publisher.jobs.shop
        if ready is None or shop is None:
            return {}
        if not self._publisher.jobs.roster.in_engine:
            stepped = None  # those that were aborted have left since: no step has said so
        return {
            "revision": ready.revision,
            "device": ready.device,
            "dtype": ready.dtype,
            "slots": ready.slots,
            "kv_blocks": ready.num_blocks,
            "kv_free": stepped.free_blocks if stepped else ready.num_blocks - 1,
            "block_size": ready.block_size,
            "max_input_tokens": ready.max_input_tokens,
            "max_total_tokens": ready.max_total_tokens,
            "eos_ids": tuple(ready.eos_ids),
            "watermark": ready.watermark,
            "plan_hash": ready.plan_hash,
            "buckets": ready.buckets,
            "tokenizer": shop.blob,
        }

    def counters(self) -> dict[str, float]:
        """What has happened since the process began."""
        return {
            "steps": 0,
            "compilations": 0,
            **self._publisher.jobs.counters,
            **{"reconciler_" + name: count for name, count in list(self._reconciler.counters.items())},
            **{"boot_" + name: value for name, value in self.boot.counters().items()},
            "engine_restarts": max(0, self._publisher.supervisor.restarts),
        }


def load_spec(config: Config, seat: Seat) -> LoadSpec:
    """What the engine is told to load."""
    device = seat.device or kind_of(config.device)
    spec = LoadSpec(
        model_id=config.model_id,
        revision=config.revision,
        device=device,
        dtype="" if config.dtype == "auto" else config.dtype,
        slots=config.slots,
        block_size=config.block_size,
        kv_blocks=config.kv_blocks,
        max_input_tokens=config.max_input_tokens,
        max_total_tokens=config.max_total_tokens,
        prefill_chunk=config.prefill_chunk,
        prefill_batch=config.prefill_batch,
        layout="" if config.layout == "auto" else config.layout,
        depth=config.steps_in_flight,
        graphs=config.graphs,
        warm_up_seconds=config.warm_up_seconds,
        histogram=config.histogram,
        prefix_cache=config.prefix_caching,
        deterministic=config.deterministic,
        watermark_gamma=config.watermark_gamma,
        watermark_delta=config.watermark_delta,
        cache_dir=config.cache_dir,
        offline=config.hf_hub_offline,
        token=config.hf_token,
        ready_buckets=config.ready_buckets,
    )
    if device != "hpu" or config.recipe_cache == NO_CACHE:
        return spec
    root = Path(config.recipe_cache).expanduser()
    return replace(spec, recipes=str(recipes_folder(root, spec, installed(GAUDI_PLUGIN))))
