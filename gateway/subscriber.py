"""One reader of one job, as the hub sees it: each event once and in order, whatever the connection does."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

from wire.events import Event
from wire.reader import NEED_LOG, Reader

RESTORED_WITHIN = 10.0
"""Seconds in which the owner of a running job puts back what a Redis that failed over has lost of it."""

Presence: TypeAlias = Literal["there", "deleted", "lost"]
"""Whether a job has a record. Lost: it has none, and nobody deleted it."""

MAX_HELD = 4096
"""Live events kept while the log is being read; beyond them, the log is read once more."""


class Subscriber(ABC):
    """Starts out waiting for its log; `on_need_log` is called whenever it must be read again."""

    bound = False
    """Whether the job was made for this connection, and is cancelled when it ends early."""

    def __init__(self, job_id: str, after: int = -1) -> None:
        """`after`: the seq of the last event that the client has; -1: none."""
        self.job_id = job_id
        self.reader = Reader(after)
        self.silent = False
        """No live event since the last sweep."""
        self.on_need_log: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._reading = True
        self._held: list[Event] = []
        self._overflow = False
        self._lost_since: float | None = None

    @abstractmethod
    def deliver(self, events: list[Event]) -> None:
        """Take the next events, in order and never again; a terminal one is the last."""

    @abstractmethod
    def vanished(self) -> None:
        """The job was deleted, or lost for good, before its end could be delivered."""

    @abstractmethod
    def abandon(self) -> None:
        """Let the client go, with what can be said now; it may come back."""

    def beat(self) -> None:  # noqa: B027 - most have nothing to say in between
        """The time of a heartbeat has passed."""

    def live(self, events: list[Event]) -> None:
        """Events from the channel, in its order; some may be known, some may be missing."""
        with self._lock:
            self.silent = False
            if not self._reading:
                self._offer(events)
                return
            room = MAX_HELD - len(self._held)
            self._held += events[:room]
            self._overflow |= len(events) > room

    def want_log(self) -> bool:
        """Ask for a read of the log; False if one is under way or nothing is left to read."""
        with self._lock:
            if self._reading or self.reader.ended:
                return False
            self._reading = True
            return True

    def logged(self, events: list[Event], presence: Presence) -> None:
        """What the log held after `reader.next_seq - 1`, and whether there is such a job."""
        with self._lock:
            self._reading = False
            held, self._held = self._held, []
            overflow, self._overflow = self._overflow, False
            self._pass_on(self.reader.from_log(events))
            self._offer(held)
            if self.reader.ended:
                return
            if self._is_gone(presence):
                self.vanished()
            elif overflow and not self._reading:
                self._ask()

    def _is_gone(self, presence: Presence) -> bool:
        """One that was lost may come back, and is then heard of: what its owner puts back is published."""
        if presence != "lost":
            self._lost_since = None
            return presence == "deleted"
        self._lost_since = self._lost_since or time.monotonic()
        return time.monotonic() - self._lost_since > RESTORED_WITHIN

    def _offer(self, events: list[Event]) -> None:
        ready: list[Event] = []
        for event in events:
            answer = self.reader.offer(event)
            if answer is NEED_LOG:
                self._ask()
                break
            ready += answer
        self._pass_on(ready)

    def _ask(self) -> None:
        self._reading = True
        self.on_need_log()

    def _pass_on(self, events: list[Event]) -> None:
        if events:
            self.deliver(events)
