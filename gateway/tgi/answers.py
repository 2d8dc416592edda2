"""Who waits for a generation on TGI's routes, for the whole or for each token. All are bound to their connection."""

from __future__ import annotations

import msgspec
import redis

from gateway.exchange import Exchange
from gateway.generation import DELETED, GONE_AWAY, Generation, failure, headers, stream_headers
from gateway.service import Gateway
from gateway.stream import Streaming, Waiting
from gateway.tgi import details
from gateway.tgi.shapes import StreamEvent
from wire.events import Cancelled, Done, Event, Expired, Failed, Terminal, Token

LOOK_BACK = 4096
"""Characters of text in which a stop string is looked for; longer than any can be."""

_encode = msgspec.json.Encoder().encode


class Whole(Waiting):
    """A client of /generate: one answer, when the generation has ended."""

    bound = True

    def __init__(
        self, gateway: Gateway, exchange: Exchange, generation: Generation, *, listed: bool = False
    ) -> None:
        """`listed`: the answer is a list of one, as on POST /."""
        super().__init__(gateway, exchange, generation.accepted.job.id)
        self._generation = generation
        self._listed = listed

    def deliver(self, events: list[Event]) -> None:
        """Gather tokens; the end makes the answer."""
        for event in events:
            if isinstance(event, Token):
                self._generation.tokens.append(event)
            elif isinstance(event, Done):
                self._succeed(event)
            elif isinstance(event, Failed | Cancelled | Expired):
                self._refuse(event)

    def _succeed(self, done: Done) -> None:
        """Answer, in another thread: Redis is asked for times."""
        self.gateway.chore(lambda: self._send(done))
        self.gateway.hub.close(self)  # last: a drain ends when the hub is empty and the chores are done

    def _send(self, done: Done) -> None:
        answer = details.generated(self._generation, done)
        try:
            record = self.gateway.ledger.record(self.job_id)
        except redis.RedisError:  # the answer is complete; only its timing headers would be better
            record = None
        body = _encode([answer] if self._listed else answer)
        self.answer(200, body, headers(self._generation, done, record))

    def _refuse(self, end: Terminal) -> None:
        """Answer with TGI's words for it."""
        self.answer(*failure(end), {"x-request-id": self.job_id})

    def vanished(self) -> None:
        """Somebody deleted the job."""
        self._refuse(DELETED)

    def abandon(self) -> None:
        """The gateway goes: nobody would hear the end."""
        self.answer(503, failure(GONE_AWAY)[1], {"Retry-After": "1"})
        self.gateway.cancel_soon(self.job_id)


class Stream(Streaming):
    """A client of /generate_stream: an event per token, the last one with the whole text."""

    bound = True

    def __init__(self, gateway: Gateway, exchange: Exchange, generation: Generation) -> None:
        super().__init__(gateway, exchange, generation.accepted.job.id)
        self._generation = generation
        self._pending: Token | None = None
        self._recent = ""

    def start(self) -> None:
        """Send the head, then listen."""
        self.exchange.begin(stream_headers(self._generation.accepted))
        super().start()

    def deliver(self, events: list[Event]) -> None:
        """Send tokens at once, but keep one that may be the last until it is known whether it is."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, Token):
                out += self._token(event)
            elif isinstance(event, Done):
                out.append(self._last(event))
            elif isinstance(event, Failed | Cancelled | Expired):
                out += [*self._release(), _refusal(event)]
        self.write(b"".join(out))
        if self.reader.ended:
            self.end()

    def _token(self, token: Token) -> list[bytes]:
        out = self._release()
        self._generation.tokens.append(token)
        self._pending = token
        return out if self._may_be_last(token) else out + self._release()

    def _release(self) -> list[bytes]:
        token, self._pending = self._pending, None
        return [] if token is None else [frame(details.event(self._generation, token))]

    def _may_be_last(self, token: Token) -> bool:
        accepted = self._generation.accepted
        params = accepted.job.params
        self._recent = (self._recent + token.text)[-LOOK_BACK:] if params.stop else ""
        return (
            accepted.job.ids is None  # the worker counts the prompt, and may shorten the answer
            or token.index + 1 >= params.max_new_tokens
            or token.special
            or token.id in accepted.model.one.eos_ids
            or token.id in params.stop_token_ids
            or any(stop in self._recent for stop in params.stop)
        )

    def _last(self, done: Done) -> bytes:
        generation = self._generation
        # Should the end come unforeseen, its event repeats the last token without text.
        last = self._pending or msgspec.structs.replace(generation.tokens[-1], text="")
        wanted = generation.accepted.request.params.details
        told = details.stream_details(generation, done) if wanted else None
        return frame(details.event(generation, last, generation.text, told))

    def vanished(self) -> None:
        """Somebody deleted the job."""
        self._say_and_end(DELETED)

    def abandon(self) -> None:
        """The gateway goes: nobody would hear the end."""
        self._say_and_end(GONE_AWAY)
        self.gateway.cancel_soon(self.job_id)

    def _say_and_end(self, end: Terminal) -> None:
        self.write(_refusal(end))
        self.end()


def frame(event: StreamEvent) -> bytes:
    """An event as TGI's server frames it."""
    return b"data: %b\n\n" % _encode(event)


def _refusal(end: Terminal) -> bytes:
    return b"data: %b\n\n" % failure(end, stream=True)[1]
