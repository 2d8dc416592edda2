"""TGI's routes, to the letter. A generation is bound to its connection."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from flask import Blueprint, Response, request
from msgspec import UNSET

from gateway import errors
from gateway.body import json_body
from gateway.detach import hand_over, respond
from gateway.generation import Generation
from gateway.openai import errors as refusals
from gateway.openai import routes as openai
from gateway.openai.request import parse_chat
from gateway.service import Gateway
from gateway.stream import JSON, SSE
from gateway.tgi import about
from gateway.tgi.answers import Stream, Whole
from gateway.tgi.requests import (
    form_of,
    parse_instance,
    parse_tokenize,
    parse_vertex,
    with_full_text,
)
from gateway.tgi.vertex import Batch
from gateway.tokens import tokens_of
from wire.errors import ValidationError
from wire.request import GenerateRequest, parse

OTHERS: dict[str, Callable[[Gateway, bytes], Response]] = {
    "messages": openai.chat,
    "prompt": openai.completion,
}
"""What answers a body of OpenAI's on /invocations, by the field that tells it."""


class Api:
    """What the routes do with a request that has been read."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def body(self) -> bytes:
        """The present request's."""
        return json_body(request, self._gateway.config.max_body_bytes)

    def whole(self, asked: GenerateRequest, began: float, *, listed: bool = False) -> Response:
        """One answer; on POST / it is a list of one."""
        gateway, generation = self._gateway, self._accept(asked, began, stream=False)
        return respond(
            gateway.poller,
            request.environ,
            lambda exchange: Whole(gateway, exchange, generation, listed=listed).start(),
        )

    def stream(self, asked: GenerateRequest, began: float) -> Response:
        """Server-sent events."""
        gateway = self._gateway
        try:
            generation = self._accept(asked, began, stream=True)
        except ValidationError as error:  # TGI: a stream that was begun can only fail inside
            _, sentence, kind, _ = errors.describe(error)
            return Response(b"data: %b\n\n" % errors.body(sentence, kind), 200, SSE)
        return respond(
            gateway.poller, request.environ, lambda exchange: Stream(gateway, exchange, generation).start()
        )

    def compat(self, asked: GenerateRequest, began: float) -> Response:
        """POST /, as the Hub's clients call it: `stream` chooses, and the prompt is part of the text by default."""
        asked = with_full_text(asked)
        return self.stream(asked, began) if asked.stream else self.whole(asked, began, listed=True)

    def openai(self, view: Callable[[Gateway, bytes], Response], body: bytes) -> Response:
        """A body of OpenAI's, as its own route would answer it, errors included."""
        try:
            return view(self._gateway, body)
        except Exception as error:
            return errors.answer(error) if self._gateway.quirks.errors else refusals.answer(error)

    def instance(self, given: msgspec.Raw) -> GenerateRequest:
        """What an instance of /vertex asks for, chat or not."""
        if form_of(given) == "messages":
            job, _ = openai.job_of(self._gateway, parse_chat(bytes(given)))
            return job
        return parse_instance(given)

    def vertex(self, instances: list[GenerateRequest], began: float) -> Response:
        """All of them, at once."""
        gateway = self._gateway
        for instance in instances:
            self._check(instance)
        accepted = gateway.admission.accept_all(instances, bounds=gateway.bounds, bound=True)
        generations = [Generation(each, began) for each in accepted]
        return respond(
            gateway.poller, request.environ, lambda exchange: Batch(gateway, exchange, generations).start()
        )

    def tokenize(self, body: bytes) -> Response:
        """The tokens of a text, at once: no queue and no worker is asked."""
        gateway, asked = self._gateway, parse_tokenize(body)
        special = asked.parameters is UNSET or asked.parameters.add_special_tokens
        tokenizer = gateway.fleet.tokenizer(gateway.fleet.model(asked.model))
        answer = msgspec.json.encode(tokens_of(tokenizer, asked.inputs, special))
        return hand_over(gateway.poller, request.environ, Response(answer, 200, JSON))

    def _accept(self, asked: GenerateRequest, began: float, stream: bool) -> Generation:
        gateway = self._gateway
        self._check(asked)
        accepted = gateway.admission.accept(asked, bounds=gateway.bounds, stream=stream, bound=True)
        return Generation(accepted, began)

    def _check(self, asked: GenerateRequest) -> None:
        if (asked.params.n or 1) > 1:
            raise ValidationError("`n` must be 1 here, where an answer is one text: use /jobs")
        self._gateway.admit_stream()


def blueprint(gateway: Gateway) -> Blueprint:
    """All of TGI's routes but OpenAI's and /metrics."""
    routes, api = Blueprint("tgi", __name__), Api(gateway)

    @routes.post("/generate")
    def generate() -> Response:
        began = time.monotonic()
        return api.whole(parse(api.body()), began)

    @routes.post("/generate_stream")
    def generate_stream() -> Response:
        began = time.monotonic()
        return api.stream(parse(api.body()), began)

    @routes.post("/")
    def compat() -> Response:
        began = time.monotonic()
        return api.compat(parse(api.body()), began)

    @routes.post("/invocations")
    def invocations() -> Response:
        began, body = time.monotonic(), api.body()
        other = OTHERS.get(form_of(body))
        return api.openai(other, body) if other else api.compat(parse(body), began)

    @routes.post("/vertex")
    def vertex() -> Response:
        began = time.monotonic()
        instances = parse_vertex(api.body(), gateway.config.max_client_batch_size)
        return api.vertex([api.instance(given) for given in instances], began)

    @routes.post("/tokenize")
    def tokenize() -> Response:
        return api.tokenize(api.body())

    @routes.get("/info")
    def info() -> Response:
        return about.show(about.info(gateway, request.args.get("model")))

    @routes.get("/")
    @routes.get("/health")
    @routes.get("/ping")
    def health() -> Response:
        return about.health(gateway)

    return routes
