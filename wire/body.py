"""The body of a generation request, TGI's and the job's own fields, out of JSON or a task's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wire.errors import ValidationError
from wire.job import DEFAULT_PRIORITY, DEFAULT_TTL

T = TypeVar("T")
UInt = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class MalformedRequest(ValidationError):
    """The body is not JSON at all."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """TGI's `parameters`, and vLLM's that have no counterpart there. Unknown ones are ignored, as TGI does."""

    best_of: UInt | None = None
    n: UInt | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: UInt | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: UInt | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: Annotated[int, Meta(ge=0)] | None = None
    top_n_tokens: UInt | None = None
    grammar: Any = None
    adapter_id: str | None = None
    ignore_eos: bool = False
    stop_token_ids: list[UInt] = []
    logit_bias: dict[str, float] | None = None
    """Token ids, as decimal numbers, to what is added to their logits: OpenAI's."""
    add_special_tokens: bool = True
    include_stop: bool = True
    min_p: float | None = None
    presence_penalty: float | None = None
    min_new_tokens: UInt | None = None

    @property
    def sampling(self) -> bool:
        """TGI's rule: sample if asked to, or if anything was given that only sampling uses."""
        given = (self.temperature, self.top_k, self.top_p, self.typical_p)
        return self.do_sample or any(value is not None for value in given)


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """TGI's body and the job's own fields."""

    inputs: str | list[UInt]
    """The prompt: text, or token ids that are taken as they stand."""
    parameters: Parameters | UnsetType = UNSET
    model: str | None = None
    priority: int = DEFAULT_PRIORITY
    ttl: float = DEFAULT_TTL
    """Seconds from submission to the deadline."""
    start_ttl: float = 0.0
    """Seconds from submission within which it must have been begun; 0: any time before the deadline."""
    stream: bool = False
    """Which answer is wanted; of no concern here."""

    @property
    def params(self) -> Parameters:
        """The parameters; without any, TGI samples, while an empty object is greedy."""
        return Parameters(do_sample=True) if self.parameters is UNSET else self.parameters


_decoder = msgspec.json.Decoder(GenerateRequest)


def parse(body: bytes) -> GenerateRequest:
    """The request out of a JSON body; MalformedRequest, or ValidationError for wrong types."""
    return decode(_decoder, body)


def decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    """As `parse`, for any body."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"Failed to parse the request body as JSON: {error}") from None


def from_mapping(fields: Mapping[str, Any]) -> GenerateRequest:
    """The request out of a decoded message; ValidationError for wrong types."""
    try:
        return msgspec.convert(fields, GenerateRequest)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _wrong_type(error) from None


def from_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> GenerateRequest:
    """The request out of a task's arguments: `inputs` and `parameters` may be positional."""
    names = ("inputs", "parameters")
    if len(args) > len(names):
        raise ValidationError(
            f"the task takes `inputs` and `parameters`, then keywords. Given: {len(args)} arguments"
        )
    positional = dict(zip(names, args, strict=False))
    if twice := positional.keys() & kwargs.keys():
        raise ValidationError(f"`{min(twice)}` was given twice, by position and by name")
    return from_mapping({**positional, **kwargs})


def _wrong_type(error: Exception) -> ValidationError:
    return ValidationError(f"Failed to deserialize the JSON body into the target type: {error}")
