"""The bodies of TGI's API, field by field in its order. A field that is UNSET is not there."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from wire.body import GenerateRequest, Parameters
from wire.job import FinishReason


class PrefillToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token of the prompt."""

    id: int
    text: str
    logprob: float | None
    """None: nothing stands before it."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A generated token, or one that could have been."""

    id: int
    text: str
    """A special one's own text, too, though that is no part of the answer's."""
    logprob: float | None
    special: bool


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a text ended."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    """None: nothing was drawn."""


class StreamDetails(End, frozen=True, kw_only=True):
    """How a streamed text ended."""

    input_length: int
    """Tokens of the prompt."""


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A token of a stream; the last one has the whole text."""

    index: int
    """From 1."""
    token: Token
    top_tokens: list[Token] | UnsetType = UNSET
    generated_text: str | None = None
    details: StreamDetails | None = None


class BestOfSequence(msgspec.Struct, frozen=True, kw_only=True):
    """A text that was not the best."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Details(End, frozen=True, kw_only=True):
    """How a text came about."""

    prefill: list[PrefillToken]
    """The prompt's tokens, where `decoder_input_details` asked for them."""
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a generation; POST / answers with a list of one."""

    generated_text: str
    details: Details | UnsetType = UNSET


class VertexParameters(Parameters, frozen=True, kw_only=True):
    """TGI's /vertex samples unless it is told not to."""

    do_sample: bool = True


class VertexInstance(GenerateRequest, frozen=True, kw_only=True):
    """One prompt of a /vertex request; another may be a chat."""

    parameters: VertexParameters | UnsetType = UNSET


class VertexRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /vertex."""

    instances: list[msgspec.Raw]
    """Each with `inputs` or with `messages`."""


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """The texts of a /vertex request, in its order."""

    predictions: list[str]


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /tokenize takes what /generate takes, and uses the text alone."""

    inputs: str
    parameters: Parameters | UnsetType = UNSET
    """`add_special_tokens` is looked at; `truncate` is not, as in TGI."""
    model: str | None = None


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """GET /info: TGI's, then ours."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None = None
    docker_label: str | None = None
    queue: str
    device: str
    dtype: str
    workers: list[dict[str, Any]]
