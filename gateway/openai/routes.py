"""OpenAI's routes, and TGI's /chat_tokenize. A generation is bound to its connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from gateway import errors
from gateway.body import json_body
from gateway.detach import hand_over, respond
from gateway.fleet import Model
from gateway.generation import Generation
from gateway.openai import models
from gateway.openai.answer import Answer, names_a_model
from gateway.openai.chat import ChatAnswer
from gateway.openai.completions import CompletionAnswer, prompts_of
from gateway.openai.errors import CHAT_NAMES, COMPLETION_NAMES, answer, of_wire
from gateway.openai.parameters import chat_parameters, completion_parameters
from gateway.openai.prompt import Prompt, build
from gateway.openai.request import ChatRequest, parse_chat, parse_completion
from gateway.openai.shapes import TokenizedChat
from gateway.openai.waits import Stream, Whole
from gateway.service import Gateway
from gateway.stream import JSON
from gateway.tokens import tokens_of
from wire.errors import ModelNotFound, ValidationError
from wire.request import Bounds, GenerateRequest

PREFIX = "/v1/"


def chat(gateway: Gateway, body: bytes) -> Response:
    """Answer a chat of the present request; a ValidationError is of OpenAI's words."""
    began, asked = time.monotonic(), parse_chat(body)
    job, prompt = job_of(gateway, asked)
    generations = accept(gateway, [job], began, CHAT_NAMES)
    told = ChatAnswer(asked, generations[0], prompt.row, gateway.quirks)
    return tell(gateway, told, bool(asked.stream))


def job_of(gateway: Gateway, asked: ChatRequest) -> tuple[GenerateRequest, Prompt]:
    """What a chat asks for, and the prompt that it becomes; Invalid, or ChatTemplateError."""
    model = model_of(gateway, asked.model)
    prompt = build(asked, gateway.fleet.tokenizer(model), model.one.eos_ids)
    parameters = chat_parameters(asked, prompt.grammar, gateway.quirks)
    return GenerateRequest(inputs=prompt.text, parameters=parameters, model=model.name), prompt


def completion(gateway: Gateway, body: bytes) -> Response:
    """Answer a completion of the present request, as `chat`."""
    began, asked = time.monotonic(), parse_completion(body)
    model = model_of(gateway, asked.model)
    prompts = prompts_of(asked, gateway.config.max_client_batch_size, gateway.fleet.tokenizer(model))
    parameters = completion_parameters(asked)
    jobs = [GenerateRequest(inputs=prompt, parameters=parameters, model=model.name) for prompt in prompts]
    generations = accept(gateway, jobs, began, COMPLETION_NAMES)
    return tell(gateway, CompletionAnswer(asked, generations, gateway.quirks), bool(asked.stream))


def chat_tokenize(gateway: Gateway, body: bytes) -> Response:
    """The tokens of a chat's prompt, at once: no queue and no worker is asked."""
    asked = parse_chat(body)
    model = model_of(gateway, asked.model)
    tokenizer = gateway.fleet.tokenizer(model)
    text = build(asked, tokenizer, model.one.eos_ids).text
    tokens = tokens_of(tokenizer, text, bool(asked.add_special_tokens))
    told = TokenizedChat(tokenize_response=tokens, templated_text=text)
    return hand_over(gateway.poller, request.environ, Response(msgspec.json.encode(told), 200, JSON))


def model_of(gateway: Gateway, name: str | None) -> Model:
    """The model of that name; ModelNotFound, ModelUnavailable."""
    try:
        return gateway.fleet.model(name if names_a_model(name) else None)
    except ModelNotFound:
        if gateway.quirks.any_model:
            return gateway.fleet.model(None)
        raise


def accept(
    gateway: Gateway, jobs: Sequence[GenerateRequest], began: float, names: Mapping[str, str]
) -> list[Generation]:
    """All of them or none."""
    gateway.admit_stream()
    bounds = Bounds(stop_sequences=16, best_of=128, top_n_tokens=20, cut_to_fit=gateway.quirks.cut_to_fit)
    try:
        accepted = gateway.admission.accept_all(jobs, bounds=bounds, bound=True)
    except ValidationError as error:
        raise of_wire(error, names) from None
    return [Generation(each, began) for each in accepted]


def tell(gateway: Gateway, told: Answer, stream: bool) -> Response:
    """The response, whole or in chunks."""
    kind = Stream if stream else Whole
    return respond(gateway.poller, request.environ, lambda exchange: kind(gateway, exchange, told).start())


def blueprint(gateway: Gateway) -> Blueprint:
    """/v1/* and /chat_tokenize."""
    both = Blueprint("openai", __name__)
    both.register_blueprint(_v1(gateway))

    @both.post("/chat_tokenize")
    def tokenize() -> Response:
        return chat_tokenize(gateway, _body(gateway))

    if gateway.quirks.errors:
        return both

    def refuse(error: HTTPException) -> Response:
        """What never came to a route: an address or a method that is not there."""
        return answer(error) if request.path.startswith(PREFIX) else errors.answer(error)

    both.app_errorhandler(404)(refuse)
    both.app_errorhandler(405)(refuse)
    return both


def _v1(gateway: Gateway) -> Blueprint:
    routes = Blueprint("v1", __name__, url_prefix=PREFIX.rstrip("/"))
    if not gateway.quirks.errors:
        routes.register_error_handler(Exception, answer)

    def post(rule: str, view: Callable[[Gateway, bytes], Response]) -> None:
        routes.add_url_rule(rule, view.__name__, lambda: view(gateway, _body(gateway)), methods=["POST"])

    post("/chat/completions", chat)
    post("/completions", completion)

    @routes.get("/models")
    def list_models() -> Response:
        return Response(msgspec.json.encode(models.every(gateway)), 200, JSON)

    @routes.get("/models/<path:name>")
    def one_model(name: str) -> Response:
        return Response(msgspec.json.encode(models.one(gateway, name)), 200, JSON)

    return routes


def _body(gateway: Gateway) -> bytes:
    return json_body(request, gateway.config.max_body_bytes)
