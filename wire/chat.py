"""Chat templates, rendered as transformers does, in a sandbox and within bounds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wire.errors import SagradaError

SECONDS = 2.0
"""Longest time a template may take."""

MOST_CHARACTERS = 8_000_000
"""Longest prompt that a template may make."""

MOST_POWER = 64
"""Greatest exponent in a template."""


_REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names under which a message's thoughts may come; templates read the first or the second."""

_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of the message that is to be continued; the space tells whether the template trims it."""


class ChatTemplateError(SagradaError):
    """The chat template refused the messages, is broken, or went beyond its bounds."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks assistant text for training: here, its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Every attribute, item and call looks at the clock; products that would fill the memory are refused."""

    intercepted_binops = frozenset({"*", "**"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        _check_clock()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        _check_clock()
        return super().getitem(obj, argument)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        _check_clock()
        return super().call(*args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_product(operator, left, right)
        _check_product(operator, right, left)
        return super().call_binop(context, operator, left, right)


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    **variables: Any,
) -> str:
    """The prompt's text for these messages; ChatTemplateError, in the template's words, if it refuses.

    `special_tokens` is Tokenizer.special_tokens. The text holds them already: encode it without adding any.
    `continue_final_message`: the text ends inside the last message, where its `content` does.
    """
    turns = [_with_thoughts(dict(message)) for message in messages]
    final = _tag(turns) if continue_final_message else ""
    named = {
        **(special_tokens or {}),
        "messages": turns,
        "tools": tools,
        "documents": documents,
        "add_generation_prompt": add_generation_prompt,
        **variables,
    }
    token = _deadline.set(time.monotonic() + SECONDS)
    try:
        text = _join(_compile(template).generate(named))
    except jinja2.TemplateError as error:
        raise ChatTemplateError(str(error)) from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # The template's own expressions fail with these on messages of a shape that it did not expect.
        raise ChatTemplateError(f"the chat template cannot take these messages: {error}") from error
    finally:
        _deadline.reset(token)
    return _cut(text, final) if continue_final_message else text


@lru_cache(maxsize=32)
def variables_of(template: str) -> frozenset[str]:
    """The names that the template expects to be given, such as `tools`; none if it cannot be read."""
    try:
        return frozenset(jinja2.meta.find_undeclared_variables(_environment.parse(template)))
    except jinja2.TemplateError:
        return frozenset()


def _with_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    thoughts = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    return message if thoughts is None else {"thinking": thoughts, **message, "reasoning_content": thoughts}


def _tag(messages: list[dict[str, Any]]) -> str:
    """Mark the end of the last message's text; that text."""
    content = messages[-1].get("content") if messages else None
    if isinstance(content, str):
        messages[-1]["content"] = content + _TAG
        return content
    parts: list[dict[str, Any]] = [*content] if isinstance(content, list) else []
    for at in range(len(parts) - 1, -1, -1):
        if isinstance(text := parts[at].get("text"), str):
            parts[at] = parts[at] | {"text": text + _TAG}
            messages[-1]["content"] = parts
            return text
    raise ChatTemplateError("there is no text in the final message that could be continued")


def _cut(text: str, final: str) -> str:
    """The text up to the mark; without the blanks before it if the template trims the message."""
    at = text.rfind(_TAG.strip())
    if at < 0 or final.strip() not in text:
        raise ChatTemplateError(
            "the chat template does not show the final message, which was to be continued"
        )
    return text[:at] if text.startswith(_TAG, at) else text[:at].rstrip()


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    return _environment.from_string(template)


def _join(pieces: Iterable[str]) -> str:
    text: list[str] = []
    length = 0
    for piece in pieces:
        _check_clock()
        length += len(piece)
        if length > MOST_CHARACTERS:
            raise ChatTemplateError(f"the chat template made more than {MOST_CHARACTERS} characters")
        text.append(piece)
    return "".join(text)


def _check_clock() -> None:
    if time.monotonic() > _deadline.get():
        raise ChatTemplateError(f"the chat template ran longer than {SECONDS:g} s")


def _check_product(operator: str, value: Any, times: Any) -> None:
    if not isinstance(times, int):
        return
    if operator == "**" and times > MOST_POWER:
        raise ChatTemplateError(f"the chat template raises a number to a power above {MOST_POWER}")
    if isinstance(value, str | list | tuple) and len(value) * times > MOST_CHARACTERS:
        raise ChatTemplateError(f"the chat template makes a value longer than {MOST_CHARACTERS}")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))
_environment = _Sandbox(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
)
_environment.filters["tojson"] = _tojson
_environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
