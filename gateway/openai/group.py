"""The jobs of one request, and the one exchange that answers for all of them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

import msgspec
import redis

from gateway.exchange import Exchange
from gateway.generation import DELETED, GONE_AWAY, Generation, headers, stream_headers
from gateway.hub import HEARTBEAT
from gateway.openai import errors
from gateway.openai.answer import Answer, event
from gateway.service import Gateway
from gateway.stream import JSON, KEEP_ALIVE
from gateway.subscriber import Subscriber
from wire.events import Cancelled, Done, Event, Expired, Failed, Terminal, Token
from wire.record import Record

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode


class Member(Subscriber):
    """One job of a group."""

    bound = True

    def __init__(self, group: Group, place: int, job_id: str) -> None:
        super().__init__(job_id)
        self.place = place
        """Its prompt's, in the request."""
        self._group = group

    def deliver(self, events: list[Event]) -> None:
        """The group hears of it."""
        self._group.hear(self, events)

    def vanished(self) -> None:
        """Somebody deleted the job."""
        self._group.give_up(DELETED)

    def abandon(self) -> None:
        """The gateway goes: nobody would hear the end."""
        self._group.give_up(GONE_AWAY)

    def beat(self) -> None:
        """The group may have something to say in between."""
        self._group.beat()


class Group(ABC):
    """Jobs that end together: when one fails, or the client leaves, the others are cancelled."""

    def __init__(self, gateway: Gateway, exchange: Exchange, answer: Answer) -> None:
        self.gateway, self.exchange, self.answer = gateway, exchange, answer
        self._members = [
            Member(self, place, generation.accepted.job.id)
            for place, generation in enumerate(answer.generations)
        ]
        self._lock = threading.Lock()  # the jobs' events come from several threads
        self._over = False

    def start(self) -> None:
        """Begin to listen. Opened first: a client that has left already is told at once, and then closes them."""
        for member in self._members:
            self.gateway.hub.open(member)
        self.exchange.attend(self.gone)

    def gone(self) -> None:
        """The client has left."""
        self._over = True
        self._cancel()

    def hear(self, member: Member, events: list[Event]) -> None:
        """What one job has to say."""
        with self._lock:
            if not self._over:
                self._take(member, events)
                self._flush()

    def give_up(self, end: Terminal) -> None:
        """Answer with this, and cancel what still runs."""
        with self._lock:
            if not self._over:
                self._fail(end)
                self._flush()

    def _flush(self) -> None:  # noqa: B027 - nor to be sent at once
        """What there is to say goes out."""

    def beat(self) -> None:  # noqa: B027 - a whole answer has nothing to say in between
        """The time of a heartbeat has passed."""

    def _take(self, member: Member, events: list[Event]) -> None:
        for told in events:
            if isinstance(told, Token):
                self._token(member.place, told)
            elif isinstance(told, Done):
                self.answer.ends[member.place] = told
                self._done(member.place, told)
                self._over = self.answer.complete
                if self._over:
                    self._finish()
                self.gateway.hub.close(member)  # last: a drain ends when hub is empty and the chores are done
            elif isinstance(told, Failed | Cancelled | Expired):
                self._fail(told)
                return

    def _fail(self, end: Terminal) -> None:
        self._over = True
        self._say(end)
        self._cancel()

    def _cancel(self) -> None:
        for member in self._members:
            if member.place not in self.answer.ends:
                self.gateway.cancel_soon(member.job_id)
            self.gateway.hub.close(member)

    @abstractmethod
    def _token(self, place: int, token: Token) -> None:
        """A token of that job."""

    @abstractmethod
    def _done(self, place: int, done: Done) -> None:
        """That job has ended well."""

    @abstractmethod
    def _finish(self) -> None:
        """All jobs have."""

    @abstractmethod
    def _say(self, end: Terminal) -> None:
        """The error is the end of the answer."""


class Whole(Group):
    """A client that waits for everything."""

    def _token(self, place: int, token: Token) -> None:
        self.answer.generations[place].tokens.append(token)

    def _done(self, place: int, done: Done) -> None:
        pass

    def _finish(self) -> None:
        self.gateway.chore(self._send)

    def _send(self) -> None:
        try:
            body, told = _encode(self.answer.whole()), JSON | self._headers()
        except Exception as error:  # whatever it is, the client hears of it
            refused = errors.answer(error)
            self.exchange.answer(refused.status_code, JSON, refused.get_data())
        else:
            self.exchange.answer(200, told, body)

    def _headers(self) -> dict[str, str]:
        told = [
            headers(generation, self.answer.ends[place], self._record(generation))
            for place, generation in enumerate(self.answer.generations)
        ]
        return told[0] if len(told) == 1 else _summed(told)

    def _record(self, generation: Generation) -> Record | None:
        try:
            return self.gateway.ledger.record(generation.accepted.job.id)
        except redis.RedisError:  # the answer is complete; only its timing headers would be better
            return None

    def _say(self, end: Terminal) -> None:
        status, body = errors.failure(end, self.gateway.quirks)
        again = {"Retry-After": "1"} if end is GONE_AWAY else {}
        self.exchange.answer(status, JSON | again, body)


class Stream(Group):
    """A client that reads chunks as they come."""

    def __init__(self, gateway: Gateway, exchange: Exchange, answer: Answer) -> None:
        super().__init__(gateway, exchange, answer)
        self._out: list[bytes] = []
        self._spoke = time.monotonic()

    def start(self) -> None:
        """Send the head, then listen."""
        told = [stream_headers(generation.accepted) for generation in self.answer.generations]
        self.exchange.begin(told[0] if len(told) == 1 else _summed(told))
        super().start()

    def beat(self) -> None:
        """A comment, if there was silence: proxies close silent connections."""
        if time.monotonic() - self._spoke > 0.9 * HEARTBEAT:
            self._write(KEEP_ALIVE)

    def _flush(self) -> None:
        """All chunks in one write."""
        out, self._out = self._out, []
        self._write(b"".join(out))
        if self._over:
            self.exchange.end()

    def _write(self, data: bytes) -> None:
        if data:
            self._spoke = time.monotonic()
            self.exchange.write(data)

    def _token(self, place: int, token: Token) -> None:
        self._out += map(event, self.answer.token(place, token))

    def _done(self, place: int, done: Done) -> None:
        self._out += map(event, self.answer.last(place, done))

    def _finish(self) -> None:
        self._out += [*map(event, self.answer.closing()), DONE]

    def _say(self, end: Terminal) -> None:
        self._out += [b"data: %b\n\n" % errors.streamed_failure(end, self.gateway.quirks), DONE]


def _summed(told: list[dict[str, str]]) -> dict[str, str]:
    """The headers of several generations as one's: what they count is added up, as in TGI."""
    total = dict(told[0])
    for name in total:
        if name.startswith("x-") and name not in ("x-compute-type", "x-request-id"):
            values = [one[name] for one in told]
            if "." in values[0]:
                total[name] = f"{sum(map(float, values)):.6f}"
            elif values[0].isdigit():
                total[name] = str(sum(map(int, values)))
    return total
