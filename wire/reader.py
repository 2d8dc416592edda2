"""Each event of a job exactly once, in order: from a channel that may lose some and a log that does not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from wire.codec import decode_event
from wire.errors import JobNotFound
from wire.events import Cancelled, Done, Event, Expired, Failed, Resumed, Started, Token
from wire.keys import channel, job_key
from wire.ledger import read_many
from wire.resp import RespConnection

NEED_LOG = None
"""`offer`'s answer when something is missing: read the log after `reader.after` and give it to `from_log`."""
SWEEP = 15.0
"""Seconds of silence after which the log is read in any case: pub/sub may lose the last message."""

PAUSE = 0.2
"""Seconds between two attempts to connect again."""


class Reader:
    """One stream's place in a job. Feed it everything; deliver what it returns."""

    def __init__(self, after: int = -1) -> None:
        """`after`: the last seq that the client has; -1: none."""
        self._had = after
        self.next_seq = after + 1
        self.attempt = 0
        """The newest attempt known."""
        self.ended = False
        """The terminal event is known, delivered now or had before: nothing more will come."""

    @property
    def after(self) -> int:
        """Where to read the log from."""
        return self.next_seq - 1

    def offer(self, event: Event) -> list[Event] | None:
        """What to deliver of a live event: itself, nothing if it is known, or NEED_LOG if it does not fit."""
        if self.ended or isinstance(event, Started):
            return []
        if isinstance(event, Resumed):
            return NEED_LOG if event.attempt > self.attempt else []
        if event.seq > self.next_seq:
            return NEED_LOG
        return [event] if self._takes(event) else []

    def from_log(self, events: Iterable[Event]) -> list[Event]:
        """What to deliver of logged events. After it the reader has all that the log had."""
        out: list[Event] = []
        for event in events:
            if self.ended:
                break
            if event.seq > self.next_seq and not isinstance(event, Started | Resumed):
                out += self._hole(event)
            elif self._takes(event):
                out.append(event)
        return out

    def _takes(self, event: Event) -> bool:
        """Move on by an event that is no later than next; whether it is news."""
        if isinstance(event, Started | Resumed):
            news = isinstance(event, Resumed) and event.attempt > self.attempt and event.seq >= self.next_seq
            self.attempt = max(self.attempt, event.attempt)
            return news
        if isinstance(event, Token):
            if event.seq < self.next_seq:
                return False
            self.next_seq += 1
            return True
        # An end may come early: a Redis that lost writes has forgotten tokens that we have delivered.
        self.ended = True
        return event.seq != self._had

    def _hole(self, event: Event) -> list[Event]:
        """A token is missing in the log. While the job runs its owner puts it back; afterwards nobody can."""
        if not isinstance(event, Done | Failed | Cancelled | Expired):
            return []
        self.ended = True
        lost = f"tokens {self.next_seq} to {event.seq - 1} of this job were lost by Redis: run it again"
        return [Failed(seq=self.next_seq, error=lost, error_type="incomplete_generation", usage=event.usage)]


def follow(redis: Redis, job_id: str, after: int = -1, timeout: float | None = None) -> Iterator[Event]:
    """The job's events with seq > after as they come, the end last; JobNotFound.

    `timeout`: seconds without an event after which TimeoutError is raised. `redis` must return bytes.
    """
    reader = Reader(after)
    with closing(_Feed(redis, job_id, reader)) as feed:
        heard = time.monotonic()
        while not reader.ended:
            events = feed.next(wait=min(1.0, timeout or 1.0))
            if events:
                yield from events
                heard = time.monotonic()
            elif timeout is not None and time.monotonic() - heard > timeout:
                raise TimeoutError(f"no event of job {job_id} within {timeout} s")


class _Feed:
    """One reader's connection to channel and log; made again whenever it breaks."""

    def __init__(self, redis: Redis, job_id: str, reader: Reader) -> None:
        self._redis, self._job_id, self._reader = redis, job_id, reader
        self._behind, self._read_at = True, 0.0
        self._connection: RespConnection | None = self._subscribe()

    def close(self) -> None:
        if self._connection:
            self._connection.close()

    def next(self, wait: float) -> list[Event]:
        """What there is to deliver after at most `wait` seconds of silence."""
        events: list[Event] = []
        try:
            if self._connection is None:
                self._connection = self._subscribe()
            # One by one: the reader will not give again what was heard before the log could not be read.
            events += self._hear(self._connection, wait)
            events += self._catch_up()
        except (ConnectionError, RedisTimeout):
            self.close()
            self._connection = None
            time.sleep(min(wait, PAUSE))
        return events

    def _subscribe(self) -> RespConnection:
        # First the channel, then the log: what is published in between is in both.
        connection = RespConnection(self._redis)
        (reply,) = connection.call([("SUBSCRIBE", channel(self._job_id))])
        if isinstance(reply, Exception):
            connection.close()
            raise reply
        self._behind = True
        return connection

    def _hear(self, connection: RespConnection, wait: float) -> list[Event]:
        if not self._behind:
            connection.ready(wait)
        events: list[Event] = []
        for kind, _, data in connection.drain():
            out = self._reader.offer(decode_event(data)) if kind == b"message" else []
            if out is NEED_LOG:
                self._behind = True
            else:
                events += out
        return events

    def _catch_up(self) -> list[Event]:
        due = self._behind or time.monotonic() - self._read_at > SWEEP
        if self._reader.ended or not due:
            return []
        client: Any = self._redis
        events = self._reader.from_log(read_many(client, {self._job_id: self._reader.after})[self._job_id])
        if not events and not self._reader.ended and not client.exists(job_key(self._job_id)):
            raise JobNotFound(f"there is no job {self._job_id}: the id is wrong, or its result has expired")
        self._behind, self._read_at = False, time.monotonic()
        return events
