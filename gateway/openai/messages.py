"""Messages as chat templates read them: transformers' conventions out of OpenAI's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from gateway.openai.errors import Invalid
from gateway.openai.request import EarlierCall, Message, Part
from wire.chat import ChatTemplateError, render

_PROBE = "does it read text"
_SHORT_ID = re.compile(r"\|\s*length\s*!=\s*9")
"""Mistral's templates refuse ids of calls that are not 9 letters or digits."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template expects beyond what all have in common."""

    parts: bool
    """It reads content as a list of parts, and no other."""
    developer: bool
    """It knows OpenAI's role of that name, others' `system`."""
    short_ids: bool

    @property
    def system(self) -> str:
        """The role of what the developer says."""
        return "developer" if self.developer else "system"


@lru_cache(maxsize=32)
def habits_of(template: str) -> Habits:
    """Found out by trying, and by what is written in it."""
    parts = [{"type": "text", "text": _PROBE}]
    return Habits(
        parts=not _shows(template, _PROBE) and _shows(template, parts),
        developer="developer" in template,
        short_ids=bool(_SHORT_ID.search(template)),
    )


def _shows(template: str, content: str | list[dict[str, str]]) -> bool:
    try:
        return _PROBE in render(template, [{"role": "user", "content": content}])
    except ChatTemplateError:
        return False


def plain(messages: Sequence[Message], habits: Habits, *, parsed: bool = True) -> list[dict[str, Any]]:
    """The messages for a template; Invalid for content that is no text.

    `parsed`: as transformers has them, with objects as arguments and nothing that is null; else as OpenAI sends them.
    """
    shown = [_plain(message, f"messages[{at}]", habits, parsed) for at, message in enumerate(messages)]
    if not parsed:
        return shown
    return [{name: value for name, value in message.items() if value is not None} for message in shown]


def _plain(message: Message, where: str, habits: Habits, parsed: bool) -> dict[str, Any]:
    role = habits.system if message.role == "developer" else message.role
    shown: dict[str, Any] = {"role": role, "content": _content(message.content, f"{where}.content", habits)}
    if message.reasoning_content is not None:
        shown["reasoning_content"] = message.reasoning_content
    if message.name is not None:
        shown["name"] = message.name
    if message.tool_calls:
        shown["tool_calls"] = [_call(call, habits, parsed) for call in message.tool_calls]
    if message.tool_call_id is not None:
        shown["tool_call_id"] = _id(message.tool_call_id, habits)
    return shown


def _content(
    content: str | list[Part] | None, where: str, habits: Habits
) -> str | list[dict[str, str]] | None:
    if content is None:
        return None
    texts = (
        [content] if isinstance(content, str) else [_text(p, f"{where}[{i}]") for i, p in enumerate(content)]
    )
    if habits.parts:
        return [{"type": "text", "text": text} for text in texts]
    return "".join(texts)


def _text(part: Part, where: str) -> str:
    text = {"text": part.text, "refusal": part.refusal}.get(part.type)
    if text is not None:
        return text
    if part.type in ("text", "refusal"):
        raise Invalid(
            f"Missing required parameter: '{where}.{part.type}'.", where, "missing_required_parameter"
        )
    raise Invalid(
        f"Invalid content type. This model reads text alone, and no {part.type!r}: '{where}'.", where
    )


def _call(call: EarlierCall, habits: Habits, parsed: bool) -> dict[str, Any]:
    arguments = call.function.arguments
    if parsed and isinstance(arguments, str):
        arguments = _object(arguments)
    elif not parsed and not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": _id(call.id, habits), "type": call.type, "function": function}


def _object(arguments: str) -> Any:
    """What a model was cut off in, or made up, stays the text that it is."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _id(given: str, habits: Habits) -> str:
    """The same for the same, so that a call and its answer still belong together."""
    if not habits.short_ids or re.fullmatch("[A-Za-z0-9]{9}", given):
        return given
    return hashlib.blake2b(given.encode(errors="replace"), digest_size=5).hexdigest()[:9]
