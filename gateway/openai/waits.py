"""Who waits for the jobs of one request on OpenAI's routes, for the whole or for each chunk."""

from __future__ import annotations

import time

import msgspec
import redis

from gateway.exchange import Exchange
from gateway.generation import GONE_AWAY, Generation, headers, stream_headers
from gateway.group import Gathered, Group
from gateway.hub import HEARTBEAT
from gateway.openai import errors
from gateway.openai.answer import Answer, event
from gateway.service import Gateway
from gateway.stream import JSON, KEEP_ALIVE
from wire.events import Done, Terminal, Token
from wire.record import Record

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode


class Whole(Gathered):
    """One answer of all jobs."""

    def __init__(self, gateway: Gateway, exchange: Exchange, answer: Answer) -> None:
        super().__init__(gateway, exchange, answer.generations, answer.ends)
        self.answer = answer

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
            headers(generation, self.ends[place], self._record(generation))
            for place, generation in enumerate(self.generations)
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
        super().__init__(gateway, exchange, answer.generations, answer.ends)
        self.answer = answer
        self._out: list[bytes] = []
        self._spoke = time.monotonic()

    def start(self) -> None:
        """Send the head, then listen."""
        told = [stream_headers(generation.accepted) for generation in self.generations]
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
