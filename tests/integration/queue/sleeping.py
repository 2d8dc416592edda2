"""A Celery pool of sleeping jobs, without a thread per job: the least that shows what the transport asks of a pool."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery.concurrency.base import BasePool
from kombu.asynchronous import get_event_loop
from redis import Redis

from worker.boot import Boot

log = logging.getLogger(__name__)
REDIS_URL = os.environ.get("QUEUE_TEST_REDIS", "redis://127.0.0.1:6379/0")
boot = Boot(REDIS_URL, float(os.environ.get("QUEUE_TEST_LEASE", "1")))
COUNT_RUNS = os.environ.get("QUEUE_TEST_COUNT", "1") == "1"
DRAIN = float(os.environ.get("QUEUE_TEST_DRAIN", "30"))


class Handle:
    """What Celery holds of a running job."""

    def __init__(self, pool: SleepPool, target: Any, args: Any, callback: Any) -> None:
        self.pool, self.target, self.args, self.callback = pool, target, args, callback
        self.request, self.began, self.dead = callback.__self__, time.monotonic(), False

    def terminate(self, signal: Any = None) -> None:
        self.dead = True
        self.pool.free(self)


class SleepPool(BasePool):
    """Every job sleeps for its `s` seconds."""

    body_can_be_buffer, signal_safe, task_join_will_block = True, True, False
    hub: Any = None

    def on_start(self) -> None:
        self.jobs: set[Handle] = set()
        self.heap: list[tuple[float, int, Handle]] = []
        self.numbers, self.changed, self.going = itertools.count(), threading.Condition(), True
        self.finisher = ThreadPoolExecutor(1, "finish")
        self.redis = Redis.from_url(REDIS_URL)
        boot.room = lambda: self.limit - len(self.jobs)
        threading.Thread(target=self.loop, daemon=True).start()

    def register_with_event_loop(self, hub: Any) -> None:
        self.hub = hub

    def on_apply(self, target: Any, args: Any, kwargs: Any = None, callback: Any = None,
                 accept_callback: Any = None, **_: Any) -> Handle:  # fmt: skip
        handle = Handle(self, target, args, callback)
        self.jobs.add(handle)
        accept_callback(os.getpid(), time.monotonic())
        if handle.request._already_revoked:
            self.jobs.discard(handle)
            return handle
        boot.mark_running(handle.request._message.delivery_tag)
        if COUNT_RUNS:
            self.redis.rpush("runs:" + args[1], os.getpid())
        with self.changed:
            end = handle.began + float(args[2]["kwargs"].get("s", 0))
            heapq.heappush(self.heap, (end, next(self.numbers), handle))
            self.changed.notify()
        return handle

    def loop(self) -> None:
        while self.going:
            with self.changed:
                wait = self.heap[0][0] - time.monotonic() if self.heap else 1.0
                if wait > 0:
                    self.changed.wait(wait)
                    continue
                handle = heapq.heappop(self.heap)[2]
            if not handle.dead:
                self.finisher.submit(self.finish, handle)

    def finish(self, handle: Handle) -> None:
        try:
            name, task, request = handle.args[:3]
            failed, value, _ = handle.target(name, task, request, handle.request._payload, None, None)
            handle.callback((failed, value, time.monotonic() - handle.began))
        except Exception:
            log.exception("a job could not be finished")
        finally:
            self.free(handle)

    def free(self, handle: Handle) -> None:
        self.jobs.discard(handle)
        if self.hub:
            self.hub.call_soon(lambda: None)  # wakes the loop: there is room for a pop

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        pass

    def flush(self) -> None:
        pass

    def on_stop(self) -> None:
        hub, end = get_event_loop(), time.monotonic() + DRAIN
        while self.jobs and time.monotonic() < end:
            self._turn(hub)
            time.sleep(0.02)
        self.going = False
        self.finisher.shutdown()
        self._turn(hub)
        boot.leave()

    on_terminate = on_stop

    def _turn(self, hub: Any) -> None:
        if hub:
            hub.fire_timers()
            for callback in hub._pop_ready():
                callback()
