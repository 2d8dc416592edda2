"""The bodies that OpenAI's routes take, with TGI's and vLLM's additions. Unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from gateway.openai.errors import of_msgspec
from wire.body import MalformedRequest, UInt
from wire.job import MOST_CHOICES

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Stops = Annotated[list[str], Meta(max_length=16)]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a message's content; only text can be read here."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier answer called."""

    name: str
    arguments: str | dict[str, Any] = "{}"
    """A JSON text, as OpenAI has it, or the object itself."""


class EarlierCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call in an earlier answer, sent back."""

    function: CalledFunction
    id: str = ""
    type: str = "function"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[EarlierCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    """What a model thought before that answer, for templates that show it."""


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The JSON schema of its arguments."""
    arguments: dict[str, Any] | None = None
    """TGI's name for `parameters`."""


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tool; functions are the only ones there are."""

    function: Function
    type: str = "function"


class FunctionName(msgspec.Struct, frozen=True, kw_only=True):
    """The name of a function."""

    name: str


class NamedTool(msgspec.Struct, frozen=True, kw_only=True):
    """The one tool that must be called."""

    function: FunctionName
    type: str = "function"


class NamedSchema(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's `json_schema`."""

    schema: Any
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    """Of no effect: the schema is always followed."""


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer must be: OpenAI's shapes and TGI's, whose schema or pattern is in `value`."""

    type: str
    json_schema: NamedSchema | None = None
    value: Any = None


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to stream."""

    include_usage: bool | None = None
    """A last chunk tells the usage of the request."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """What both routes take."""

    model: str | None = None
    """Absent or "tgi": the first one served."""
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: UInt | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    """0: greedy. Absent: 1."""
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    """1: off. 0: greedy."""
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, float] | list[float] | None = None
    """Token ids to what is added to their logits. TGI's list is ignored, as there."""
    seed: int | None = None
    stop: str | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Of no effect."""

    # vLLM's, by its names
    top_k: int | None = None
    """0 or -1: off."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: UInt | None = None
    ignore_eos: bool = False
    stop_token_ids: list[UInt] | None = None
    include_stop_str_in_output: bool = False
    truncate_prompt_tokens: int | None = None
    """Keep the prompt's last so many tokens; -1: all."""
    add_special_tokens: bool | None = None


class ChatRequest(Sampling, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: UInt | None = None
    """OpenAI's newer name for `max_tokens`, which it overrides."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: str | NamedTool | None = None
    """"auto", "none", "required", or a tool, by its name alone as TGI has it, too."""
    parallel_tool_calls: bool | None = None
    tool_prompt: str | None = None
    """TGI's: what is written under the last message when there are tools."""
    response_format: ResponseFormat | None = None

    # transformers' and vLLM's
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """Absent: if the last message is the assistant's."""
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None


class CompletionRequest(Sampling, frozen=True, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[str | UInt | list[UInt]]
    """A text, texts, token ids, or lists of token ids."""
    best_of: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None


Body = TypeVar("Body", ChatRequest, CompletionRequest)

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)


def parse_chat(body: bytes) -> ChatRequest:
    """The request out of a JSON body; MalformedRequest, or Invalid with the parameter's name."""
    return _parse(_chat, body)


def parse_completion(body: bytes) -> CompletionRequest:
    """As parse_chat."""
    return _parse(_completion, body)


def _parse(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise of_msgspec(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"We could not parse the JSON body of your request: {error}") from None
