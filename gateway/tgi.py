"""TGI's API: /generate and /generate_stream, to the letter. Both are bound to their connection."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import redis
from flask import Blueprint, Response, request

from gateway import errors
from gateway.body import json_body
from gateway.detach import respond
from gateway.exchange import Exchange
from gateway.generation import DELETED, GONE_AWAY, Generation, failure, headers, stream_headers
from gateway.service import Gateway
from gateway.stream import SSE, Streaming, Waiting
from wire.errors import ValidationError
from wire.events import Cancelled, Done, Event, Expired, Failed, Terminal, Token
from wire.request import GenerateRequest, parse

LOOK_BACK = 4096
"""Characters of text in which a stop string is looked for; longer than any can be."""

_encode = msgspec.json.encode


class Whole(Waiting):
    """A client of /generate: one answer, when the generation has ended."""

    bound = True

    def __init__(self, gateway: Gateway, exchange: Exchange, generation: Generation) -> None:
        super().__init__(gateway, exchange, generation.accepted.job.id)
        self._generation = generation

    def deliver(self, events: list[Event]) -> None:
        """Gather tokens; the end makes the answer."""
        for event in events:
            if isinstance(event, Token):
                self._generation.tokens.append(event)
            elif isinstance(event, Done):
                self._succeed(event)
            elif isinstance(event, Failed | Cancelled | Expired):
                self.answer(*failure(event))

    def _succeed(self, done: Done) -> None:
        self.gateway.chore(lambda: self._send(done))
        self.gateway.hub.close(self)  # last: a drain ends when the hub is empty and the chores are done

    def _send(self, done: Done) -> None:
        generation = self._generation
        body: dict[str, Any] = {"generated_text": generation.text}
        if generation.accepted.request.params.details:
            first, *others = generation.ends(done)
            body["details"] = generation.whole(first, 0)
            if others:
                body["details"]["best_of_sequences"] = [
                    {"generated_text": generation.text_of(generation.tokens_of(choice))}
                    | generation.whole(end, choice)
                    for choice, end in enumerate(others, 1)
                ]
        try:
            record = self.gateway.ledger.record(self.job_id)
        except redis.RedisError:  # the answer is complete; only its timing headers would be better
            record = None
        self.answer(200, _encode(body), headers(generation, done, record))

    def vanished(self) -> None:
        """Somebody deleted the job."""
        self.answer(*failure(DELETED))

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
                out += [*self._release(), b"data: %b\n\n" % failure(event)[1]]
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
        return [] if token is None else [self._event(token, None, None)]

    def _event(self, token: Token, text: str | None, details: dict[str, Any] | None) -> bytes:
        index = token.index + 1  # TGI counts from 1
        body = {
            "index": index,
            "token": self._generation.token(token),
            "generated_text": text,
            "details": details,
        }
        return b"data: %b\n\n" % _encode(body)

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
        details = None
        if generation.accepted.request.params.details:
            details = generation.details(generation.ends(done)[0]) | {
                "input_length": done.usage.prompt_tokens
            }
        return self._event(last, generation.text, details)

    def vanished(self) -> None:
        """Somebody deleted the job."""
        self._say_and_end(DELETED)

    def abandon(self) -> None:
        """The gateway goes: nobody would hear the end."""
        self._say_and_end(GONE_AWAY)
        self.gateway.cancel_soon(self.job_id)

    def _say_and_end(self, end: Terminal) -> None:
        self.write(b"data: %b\n\n" % failure(end)[1])
        self.end()


def blueprint(gateway: Gateway) -> Blueprint:
    """TGI's generation routes."""
    routes = Blueprint("tgi", __name__)

    def accept(asked: GenerateRequest, began: float, stream: bool) -> Generation:
        if (asked.params.n or 1) > 1:
            raise ValidationError("`n` must be 1 here, where an answer is one text: use /jobs")
        gateway.admit_stream()
        return Generation(gateway.admission.accept(asked, stream=stream, bound=True), began)

    @routes.post("/generate")
    def generate() -> Response:
        began = time.monotonic()
        generation = accept(parse(json_body(request, gateway.config.max_body_bytes)), began, stream=False)
        return respond(
            gateway.poller, request.environ, lambda exchange: Whole(gateway, exchange, generation).start()
        )

    @routes.post("/generate_stream")
    def generate_stream() -> Response:
        began = time.monotonic()
        asked = parse(json_body(request, gateway.config.max_body_bytes))
        try:
            generation = accept(asked, began, stream=True)
        except ValidationError as error:  # TGI: a stream that was begun can only fail inside
            _, sentence, kind, _ = errors.describe(error)
            return Response(b"data: %b\n\n" % errors.body(sentence, kind), 200, SSE)
        return respond(
            gateway.poller, request.environ, lambda exchange: Stream(gateway, exchange, generation).start()
        )

    return routes
