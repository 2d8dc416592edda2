"""One pub/sub connection per process, fanned out to every open stream. The log is the truth behind it.

The hub's thread alone touches connection and channels. A subscriber's log is read only after Redis has confirmed the
subscription, and again after every reconnect, so that nothing can fall between the log and the live events.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis

from gateway.catchup import CatchUp
from gateway.clock import Clock
from gateway.subscriber import Subscriber
from wire.codec import decode_event
from wire.events import Event
from wire.keys import channel
from wire.resp import RespConnection

log = logging.getLogger("sagrada.gateway")

HEARTBEAT = 7.5
"""Seconds between heartbeats: a stream that said nothing from one to the next gets a comment, so that none is silent
for longer than TGI's 15."""

SWEEP = 15.0
"""Seconds between looks at the logs of silent jobs: the belt, should a published event be lost."""

PING_AFTER = 5.0
"""Seconds of silence after which Redis is asked for a sign of life; as many again, and the connection is given up."""

MAX_PAUSE = 2.0
"""Longest pause between two attempts to reach Redis, seconds."""


@dataclass(slots=True)
class Channel:
    """Who listens to one job, and how many of our commands about it Redis has yet to confirm."""

    subscribers: list[Subscriber] = field(default_factory=list)
    unconfirmed: int = 0


class Hub:
    """Subscribers come and go from any thread."""

    def __init__(self, redis_url: str, clock: Clock, catch_up: CatchUp) -> None:
        self.connections = 0
        """Connections made, or tried, so far."""
        self._redis_url, self._clock, self._catch_up = redis_url, clock, catch_up
        self._open: set[Subscriber] = set()
        self._requests: deque[tuple[bool, Subscriber]] = deque()
        self._channels: dict[bytes, Channel] = {}
        self._leaving = False
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def start(self) -> None:
        """Begin; once per process, after the fork."""
        threading.Thread(target=self._run, name="hub", daemon=True).start()
        self._clock.every(HEARTBEAT, self._beat)
        self._clock.every(SWEEP, self._sweep)

    def open(self, subscriber: Subscriber) -> None:
        """Deliver to this subscriber: the log first, then what comes live."""
        self._open.add(subscriber)
        self._request(True, subscriber)

    def close(self, subscriber: Subscriber) -> None:
        """Deliver nothing more to it; harmless when repeated."""
        try:
            self._open.remove(subscriber)  # one step: two threads may close it at once
        except KeyError:
            return
        self._request(False, subscriber)

    def connect_anew(self) -> None:
        """Soon, over a new connection: another server is the master now."""
        self._leaving = True
        self._wake_up()

    def subscribers(self) -> list[Subscriber]:
        """Who is open now."""
        return list(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def _request(self, opening: bool, subscriber: Subscriber) -> None:
        self._requests.append((opening, subscriber))
        self._wake_up()

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):  # full: it is about to wake up anyway
            os.write(self._wake, b"\0")

    def _beat(self) -> None:
        for subscriber in self.subscribers():
            subscriber.beat()

    def _sweep(self) -> None:
        for subscriber in self.subscribers():
            silent, subscriber.silent = subscriber.silent, True
            if silent and subscriber.want_log():
                self._catch_up.want(subscriber)

    def _run(self) -> None:
        pause = 0.05
        while True:
            started = time.monotonic()
            self.connections += 1
            try:
                with closing(RespConnection(self._redis_url)) as connection:
                    self._resubscribe(connection)
                    self._serve(connection)
            except (redis.RedisError, OSError) as error:
                log.warning("the pub/sub connection is lost, reconnecting: %s", error)
            except Exception:  # every stream of the process hangs on this thread: it must not end
                log.exception("the hub failed and starts over")
            pause = 0.05 if time.monotonic() - started > MAX_PAUSE else min(2 * pause, MAX_PAUSE)
            time.sleep(pause)

    def _resubscribe(self, connection: RespConnection) -> None:
        """On a new connection nothing is subscribed, and every log must be read again."""
        self._channels = {name: c for name, c in self._channels.items() if c.subscribers}
        for c in self._channels.values():
            c.unconfirmed = 1
        if self._channels:
            connection.send([("SUBSCRIBE", name) for name in self._channels])

    def _serve(self, connection: RespConnection) -> None:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        pinged = False
        while True:
            ready = {fd for fd, _ in poll.poll(PING_AFTER * 1000)}
            if self._leaving:
                self._leaving = False
                raise redis.ConnectionError("the sentinels name another master")
            if self._woken in ready:
                self._follow_requests(connection)
            if connection.fileno() in ready:
                pinged = False
                self._dispatch(connection.drain())
            elif pinged and not ready:
                raise redis.ConnectionError(f"Redis has said nothing for {2 * PING_AFTER:g} s")
            elif not ready:
                pinged = True
                connection.send([("PING",)])

    def _follow_requests(self, connection: RespConnection) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 65536)
        commands: list[tuple[str, bytes]] = []
        while self._requests:
            opening, subscriber = self._requests.popleft()
            name = channel(subscriber.job_id).encode()
            if opening:
                commands += self._add(name, subscriber)
            else:
                commands += self._remove(name, subscriber)
        if commands:
            connection.send(commands)

    def _add(self, name: bytes, subscriber: Subscriber) -> list[tuple[str, bytes]]:
        subscriber.on_need_log = lambda: self._catch_up.want(subscriber)
        c = self._channels.setdefault(name, Channel())
        c.subscribers.append(subscriber)
        if len(c.subscribers) > 1:
            if not c.unconfirmed:
                self._catch_up.want(subscriber)
            return []
        c.unconfirmed += 1
        return [("SUBSCRIBE", name)]

    def _remove(self, name: bytes, subscriber: Subscriber) -> list[tuple[str, bytes]]:
        c = self._channels[name]
        c.subscribers.remove(subscriber)
        if c.subscribers:
            return []
        c.unconfirmed += 1
        return [("UNSUBSCRIBE", name)]

    def _dispatch(self, messages: list[Any]) -> None:
        """Hand each subscriber all of its new events at once: a backlog becomes fewer, larger writes."""
        touched: dict[Subscriber, list[Event]] = {}
        for kind, name, payload in (message for message in messages if len(message) == 3):
            if kind == b"message":
                self._collect(name, payload, touched)
            elif kind in (b"subscribe", b"unsubscribe"):
                self._confirm(name)
        for subscriber, events in touched.items():
            try:
                subscriber.live(events)
            except Exception:  # one stream's fault must not stop all the others
                log.exception("a stream failed and is let go")
                subscriber.abandon()

    def _collect(self, name: bytes, payload: bytes, touched: dict[Subscriber, list[Event]]) -> None:
        c = self._channels.get(name)
        if c is None:
            return
        try:
            event = decode_event(payload)
        except msgspec.MsgspecError:  # anybody may publish: what is no event of ours is nobody's
            return
        for subscriber in c.subscribers:
            touched.setdefault(subscriber, []).append(event)

    def _confirm(self, name: bytes) -> None:
        c = self._channels.get(name)
        if c is None:
            return
        c.unconfirmed -= 1
        if c.unconfirmed == 0:
            for subscriber in c.subscribers:
                self._catch_up.want(subscriber)
            if not c.subscribers:
                del self._channels[name]
