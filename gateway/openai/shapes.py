"""The bodies of OpenAI's answers. A field that is UNSET is not there."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.tokens import SimpleToken
from wire.job import Usage

FinishReason = Literal["stop", "length", "tool_calls"]


class TopLogprob(msgspec.Struct, frozen=True):
    """How likely a token was at its place."""

    token: str
    """Its text; what is no whole character in it is escaped, byte by byte."""
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob, frozen=True):
    """A token of the answer and those likeliest at its place."""

    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct, frozen=True):
    """The tokens of a chat's answer, or of a chunk."""

    content: list[TokenLogprob]
    refusal: None = None


class FunctionCall(msgspec.Struct, frozen=True):
    """What is called with what."""

    name: str
    arguments: str
    """A JSON object, as text."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a chat."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the answers."""

    index: int
    message: ChatMessage
    logprobs: Logprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of a call; the name comes with the first piece."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of the call `index`; id and type come with the first piece."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What is new; the role comes with the first."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of one of the answers."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    """Only where it was asked for; null but in the last chunk."""


class LegacyLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a completion, each list one entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]
    """Where each begins in the text, in characters."""


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the texts, or what is new of it."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None = None
    finish_reason: str | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /v1/completions; its chunks have the same shape."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    max_model_len: int
    """Tokens of prompt and answer together, as vLLM tells it."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    """The parameter that is to blame."""
    code: str | None = None
    http_status_code: int | UnsetType = UNSET
    """Only inside a stream, whose own status was 200: TGI's."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error under /v1."""

    error: Error


class TokenizedChat(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of TGI's /chat_tokenize."""

    tokenize_response: list[SimpleToken]
    templated_text: str
