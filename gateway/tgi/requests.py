"""What TGI's routes make of a body."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.tgi.shapes import TokenizeRequest, VertexInstance, VertexRequest
from wire.body import decode
from wire.errors import ValidationError
from wire.request import GenerateRequest

NULL = msgspec.Raw(b"null")


class _Forms(msgspec.Struct, frozen=True):
    """The fields by which TGI tells its requests apart, in the order in which it tries them."""

    inputs: msgspec.Raw = NULL
    messages: msgspec.Raw = NULL
    prompt: msgspec.Raw = NULL


_forms = msgspec.json.Decoder(_Forms)
_vertex = msgspec.json.Decoder(VertexRequest)
_instance = msgspec.json.Decoder(VertexInstance)
_tokenize = msgspec.json.Decoder(TokenizeRequest)


def form_of(body: bytes | msgspec.Raw) -> str:
    """The field that says which request this is: `inputs`, `messages` or `prompt`; ValidationError without any."""
    found = decode(_forms, body)
    for name in _Forms.__struct_fields__:
        if getattr(found, name) != NULL:
            return name
    raise ValidationError("one of `inputs`, `messages` and `prompt` must be given")


def with_full_text(asked: GenerateRequest) -> GenerateRequest:
    """The request with what `return_full_text` is by default on POST / and /invocations."""
    if asked.params.return_full_text is not None:
        return asked
    params = msgspec.structs.replace(asked.params, return_full_text=True)
    return msgspec.structs.replace(asked, parameters=params)


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """The text to tokenise, valid Unicode; MalformedRequest or ValidationError."""
    return decode(_tokenize, body)


def parse_vertex(body: bytes, most: int) -> Sequence[msgspec.Raw]:
    """At least one instance, and at most `most`; MalformedRequest or ValidationError."""
    instances = decode(_vertex, body).instances
    if not instances:
        raise ValidationError("`instances` cannot be empty")
    if len(instances) > most:
        raise ValidationError(
            f"Number of instances exceeds the maximum allowed batch size of {most}. Given: {len(instances)}"
        )
    return instances


def parse_instance(instance: msgspec.Raw) -> VertexInstance:
    """One with `inputs`; ValidationError."""
    return decode(_instance, instance)
