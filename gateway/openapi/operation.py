"""What the document tells of one method of one route, and the answers that many have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import Body

JSON = "application/json"
SSE = "text/event-stream"
TEXT = "text/plain"

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Either:
    """A body of one of these types; msgspec's own unions want a tag."""

    types: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    says: str
    """Its description."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """Content type → the type of the body, for server-sent events that of each event; empty: it has no body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name → description."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a request says outside its body."""

    name: str
    place: str
    """path, query or header."""
    says: str
    schema: Schema = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one route."""

    method: str
    path: str
    """As Flask has it."""
    tag: str
    says: str
    """Its summary."""
    more: str = ""
    """Its description."""
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    """The type of the JSON body; None: it takes none."""
    examples: Mapping[str, Any] = field(default_factory=dict)
    """Bodies that work, by name."""
    answers: Mapping[int, Answer]

    @property
    def id(self) -> str:
        """Unique, and the same in every version."""
        return "_".join(
            [self.method, *self.path.replace("<", " ").replace(">", " ").replace("/", " ").split()]
        )


RETRY_AFTER = {"Retry-After": "Seconds after which to try again."}

REFUSALS: Mapping[int, tuple[str, Mapping[str, str]]] = {
    400: ("The body is not JSON.", {}),
    401: ("The key is missing or wrong.", {"WWW-Authenticate": "Bearer"}),
    403: ("The key may not do this.", {}),
    404: ("There is no such thing: the job, or the model.", {}),
    408: ("The body did not arrive in time.", {}),
    413: ("The body is larger than MAX_BODY_BYTES.", {}),
    415: ("The body is not declared as JSON.", {}),
    422: ("The request cannot be served as it stands; the sentence names the parameter.", {}),
    424: ("The generation failed, or its deadline passed.", {}),
    429: ("Too many jobs wait, too many streams are open, or the key's rates are spent.", RETRY_AFTER),
    500: ("The generation was cancelled, or the gateway failed; its log has the reason.", {}),
    503: ("No worker serves the model now, Redis does not answer, or the gateway is going.", RETRY_AFTER),
}
"""Status → what it says, and its headers."""

ALWAYS = (401, 403, 429, 500, 503)
"""What every route behind a key may answer."""

TAKES_A_BODY = (400, 408, 413, 415, 422)


def refusals(*statuses: int, error: Any = Body) -> dict[int, Answer]:
    """Those answers, in this API's shape of an error."""
    return {
        status: Answer(REFUSALS[status][0], {JSON: error}, REFUSALS[status][1])
        for status in sorted({*statuses})
    }
