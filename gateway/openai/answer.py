"""What the jobs of one request become in an API's words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from gateway.generation import Generation
from gateway.openai.request import Sampling
from gateway.strict import Quirks
from gateway.version import version
from wire.events import Done, Token
from wire.job import Usage

FINGERPRINT = f"sagrada-{version()}"
"""What OpenAI's clients tell two servers apart by."""

_encode = msgspec.json.encode


PLACEHOLDERS = frozenset({"", "tgi", "dummy"})
"""What TGI's clients send as the model: its own word, and that of huggingface_hub where the model is an address."""


def names_a_model(name: str | None) -> bool:
    """Whether the client wants a certain one."""
    return name is not None and name not in PLACEHOLDERS


class Answer(ABC):
    """Told whole when all jobs have ended, or in chunks as their tokens come. One thread at a time."""

    def __init__(self, asked: Sampling, generations: Sequence[Generation], kind: str, quirks: Quirks) -> None:
        """`kind`: what the answer's id begins with."""
        first = generations[0].accepted
        self.generations = generations
        self.id = f"{kind}-{first.job.id}"
        self.created = first.record.created // 1000
        self.model = first.model.name
        if quirks.any_model and names_a_model(asked.model):
            self.model = asked.model or self.model
        self.ends: dict[int, Done] = {}
        """How each job ended, by its place in the request."""
        options = asked.stream_options
        self._tells_usage = options is not None and options.include_usage is True

    @property
    def usage(self) -> Usage:
        """Of all jobs together."""
        usages = [self.used(end) for end in self.ends.values()]
        return Usage.of(sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages))

    def used(self, end: Done) -> Usage:
        """What one job counts for."""
        return end.usage

    @property
    def no_usage(self) -> UnsetType | None:
        """What a chunk says of the usage that is told at the end."""
        return None if self._tells_usage else UNSET

    @abstractmethod
    def token(self, place: int, token: Token) -> list[msgspec.Struct]:
        """The chunks that a token makes."""

    @abstractmethod
    def last(self, place: int, done: Done) -> list[msgspec.Struct]:
        """The chunks that end a job's texts."""

    @abstractmethod
    def usage_chunk(self) -> msgspec.Struct:
        """The chunk of a stream that tells its usage."""

    @abstractmethod
    def whole(self) -> msgspec.Struct:
        """Everything, out of what the generations have gathered."""

    def closing(self) -> list[msgspec.Struct]:
        """The chunks after the last job's last."""
        return [self.usage_chunk()] if self._tells_usage else []


def event(chunk: msgspec.Struct) -> bytes:
    """A chunk as a server-sent event."""
    return b"data: %b\n\n" % _encode(chunk)
