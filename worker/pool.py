"""A Celery pool whose tasks all run in one engine, with no thread per task. Only Celery's contract lives here.

The trace is deferred: the engine runs the job, and only when the ledger knows its end does a finisher thread run
Celery's ordinary tracer over a task that returns, or raises, what is known already. So results, signals, events,
links and acks are stock.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery.concurrency.base import BasePool
from celery.worker import state
from kombu.asynchronous import get_event_loop

from wire.dispatch import dispatch
from worker.assignment import (
    Assignment,
    Broken,
    Completed,
    Left,
    Returned,
    Settled,
    TimedOut,
    Verdict,
    Withdrawn,
)
from worker.finisher import Finisher
from worker.process import WorkerProcess

log = logging.getLogger(__name__)

SWITCH_INTERVAL = 0.0005
"""Seconds: the hub parses a message while the publisher waits to hand out a step's tokens."""
PUMP = 0.02
LAST_WORDS = 5.0
"""Seconds for telling Celery what became of the last jobs."""
SETTLE_PAUSE = 0.5
"""Seconds after a failure to tell, so that a lasting one does not run hot."""
EXIT_FAILED = 1

outcomes: dict[str, Completed | Broken] = {}
"""What the task of that id returns or raises when it is traced."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Handle:
    """What Celery holds of a running task, by a weak reference."""

    pool: EnginePool
    request: Any
    target: Callable[..., Any]
    args: tuple[Any, ...]
    on_done: Callable[..., Any]
    on_timeout: Callable[[bool, float], Any]
    started: float
    assignment: Assignment | None = None

    def terminate(self, signal: Any = None) -> None:
        """Revoked with terminate, or cancelled by a cold shutdown: then another worker is to go on."""
        self.pool.abandon(self, hand_over=self.request._already_cancelled)


class EnginePool(BasePool):
    """One engine as a pool; `limit` is of no concern: room is what the engine says."""

    body_can_be_buffer = True
    signal_safe = True
    task_join_will_block = False

    def on_start(self) -> None:
        """Start the process's parts; the model loads while Celery connects."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._hub: Any = None
        self._handles: set[Handle] = set()
        self._finisher = Finisher()
        self.process = WorkerProcess(
            self.app.config,
            self.app.seat,
            self.options["initargs"][1],
            self._wake,
            self._gave_up,
            partial(dispatch, self.app),
        )
        self.app.process = self.process
        self.process.start()

    def register_with_event_loop(self, hub: Any) -> None:
        """The hub is to be woken when there is room for more."""
        self._hub = hub

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        timeout_callback: Any = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        **_: Any,
    ) -> Handle:
        """Take a task over. Celery keeps only a weak reference to the handle: the strong one is here."""
        request = callback.__self__
        handle = Handle(self, request, target, args, callback, timeout_callback, time.monotonic())
        self._handles.add(handle)
        accept_callback(os.getpid(), time.monotonic())
        if request._already_revoked or request._already_cancelled:
            self._handles.discard(handle)
            return handle
        self.process.boot.mark_running(request._message.delivery_tag)
        handle.assignment = self._assignment(handle, timeout, soft_timeout)
        self.process.deliver(handle.assignment)
        return handle

    def _assignment(self, handle: Handle, timeout: float | None, soft_timeout: float | None) -> Assignment:
        args, kwargs, _ = handle.request._payload
        return Assignment(
            job_id=handle.request.id,
            settle=partial(self._settle, handle),
            body=(args, kwargs) if args or kwargs else None,
            soft_limit=soft_timeout or self.options.get("soft_timeout"),
            hard_limit=timeout or self.options.get("timeout"),
        )

    def abandon(self, handle: Handle, hand_over: bool) -> None:
        """Celery has spoken for the task already: stop it."""
        if handle.assignment:
            self.process.drop(handle.assignment, hand_over)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Nothing: all tasks share this process, `Handle.terminate` stops the one that is meant."""

    def flush(self) -> None:
        """Nothing is buffered here."""

    def on_stop(self) -> None:
        """Warm shutdown: what runs gets its time, what is left goes to others."""
        self._shut_down(self.app.config.drain_timeout)

    def on_terminate(self) -> None:
        """Cold shutdown."""
        self._shut_down(0.0)

    def _get_info(self) -> dict[str, Any]:
        info = self.process.info()
        return {
            **super()._get_info(),
            "max-concurrency": info.slots,
            "processes": [os.getpid()],
            "active": len(self._handles),
            "state": info.state,
            "counters": dict(info.counters),
        }

    def _settle(self, handle: Handle, verdict: Verdict) -> None:
        self._finisher.submit(partial(self._finish, handle, verdict))

    # The finisher's thread

    def _finish(self, handle: Handle, verdict: Verdict) -> None:
        try:
            if not (handle.request._already_revoked or handle.request._already_cancelled):
                self._say(handle, verdict)
        except Exception as error:  # the ledger has the job's end: its message comes back and finds it there
            log.exception("task %s could not be settled: once more (%s)", handle.request.id, error)
            handle.request.reject(requeue=True)
            time.sleep(SETTLE_PAUSE)
        finally:
            self._handles.discard(handle)
            self._wake()

    def _say(self, handle: Handle, verdict: Verdict) -> None:
        request = handle.request
        match verdict:
            case Completed() | Broken():
                self._trace(handle, verdict)
            case TimedOut(seconds=seconds):
                handle.on_timeout(False, seconds)
            case Withdrawn():
                request._announce_revoked("cancelled", True, None, False)
            case Settled():
                state.task_ready(request)
                request.acknowledge()
            case Returned():
                state.task_ready(request)
                request.reject(requeue=True)
            case Left():
                state.task_ready(request)
                self.process.boot.drop(request._message.delivery_tag)

    def _trace(self, handle: Handle, verdict: Completed | Broken) -> None:
        name, task_id, request = handle.args[:3]
        outcomes[task_id] = verdict
        try:
            # The task's arguments are done with: neither its trace nor its events are to show a prompt.
            failed, value, _ = handle.target(
                name, task_id, request, ((), {}, handle.request._payload[2]), None, None
            )
        finally:
            del outcomes[task_id]
        handle.on_done((failed, value, time.monotonic() - handle.started))

    # Shutdown, in the main thread

    def _shut_down(self, seconds: float) -> None:
        self.process.drain()
        self._pump_until(lambda: not self._handles, seconds)
        if self._handles:
            log.warning("%d jobs are handed over to other workers", len(self._handles))
            self.process.hand_over()
            self._pump_until(lambda: not self._handles, LAST_WORDS)
        self._finisher.stop(LAST_WORDS)
        self._pump()
        self.process.stop()

    def _pump_until(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            self._pump()
            time.sleep(PUMP)

    def _pump(self) -> None:
        """Celery has left its loop: acks and timers are still to run."""
        hub: Any = get_event_loop()
        if hub is not None:
            hub.fire_timers()
            for call in hub._pop_ready():
                call()

    def _wake(self) -> None:
        if self._hub is not None:
            self._hub.call_soon(_nothing)

    def _gave_up(self) -> None:
        state.should_stop = EXIT_FAILED
        self._wake()


def _nothing() -> None:
    """Wakes the hub, which then asks whether there is room."""
