"""What a text must follow: the constraint that a job carries, and TGI's `grammar`, by its rules and in its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from wire.errors import ValidationError

MOST_BYTES = 1 << 17
"""Of a schema, a pattern, or all options together."""
MOST_OPTIONS = 4096
MOST_LITERAL = 1 << 14
"""Bytes of a pattern, an option, or a text within a schema: a mask within one of 100 kB has been seen to take 60 ms."""
BLANKS = r"[\x20\x0A\x0D\x09]{1,20}"
"""What may stand between two parts of a JSON text: as much as indents it, and not so much that a model gets lost."""


class Schema(msgspec.Struct, frozen=True, tag="schema"):
    """A JSON text that this JSON schema (draft 2020-12) accepts."""

    json: str


class JsonObject(msgspec.Struct, frozen=True, tag="object"):
    """Any JSON object."""


class Regex(msgspec.Struct, frozen=True, tag="regex"):
    """A text that the pattern matches from its beginning to its end."""

    pattern: str


class Choice(msgspec.Struct, frozen=True, tag="choice"):
    """One of these texts."""

    options: tuple[str, ...]


class Lark(msgspec.Struct, frozen=True, tag="lark"):
    """A text of this grammar, in llguidance's dialect of Lark: what tools become."""

    text: str


Grammar: TypeAlias = Schema | JsonObject | Regex | Choice | Lark


def of_tgi(given: Any) -> Grammar:
    """TGI's `grammar` parameter: {"type": "json" | "json_object" | "regex" | "json_schema", "value": …}."""
    if not isinstance(given, Mapping) or not isinstance(kind := given.get("type"), str):
        raise _wrong("it is an object with `type` and `value`")
    value = given.get("value")
    match kind:
        case "json" | "json_object":
            return of_schema(value)
        case "json_schema":
            if not isinstance(value, Mapping) or "schema" not in value:
                raise _wrong("the `value` of a json_schema is an object with `schema`")
            return of_schema(value["schema"])
        case "regex":
            if not isinstance(value, str) or not value:
                raise _wrong("the `value` of a regex is a string")
            return Regex(_bounded(value, MOST_LITERAL))
        case "choice":
            return of_choice(value)
    raise _wrong(f"its `type` is one of json, json_object, json_schema, regex, choice. Given: {kind!r}")


def of_schema(value: Any) -> Schema:
    """A schema, or its text; as TGI has it, it must describe an object's properties."""
    schema = _schema(value)
    if "properties" not in schema:
        raise _wrong("Grammar must have a 'properties' field")
    return _written(schema)


def of_any_schema(value: Any) -> Schema:
    """A schema, or its text, of whatever JSON."""
    return _written(_schema(value))


def _schema(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(_bounded(value))
        except (msgspec.DecodeError, RecursionError) as error:
            raise _wrong(f"the schema is not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise _wrong("a schema is a JSON object, or a string that holds one")
    return value


def _written(schema: Mapping[str, Any]) -> Schema:
    try:
        check_literals(schema)
        return Schema(_bounded(msgspec.json.encode(schema).decode()))
    except (RecursionError, UnicodeEncodeError) as error:
        raise _wrong(f"the schema cannot be written as JSON: {type(error).__name__}") from None


def of_choice(value: Any) -> Choice:
    """A list of different texts, none of them empty."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(v, str) and v for v in value):
        raise _wrong("the `value` of a choice is a list of strings, none of them empty")
    if len(value) > MOST_OPTIONS:
        raise _wrong(f"a choice has at most {MOST_OPTIONS} options. Given: {len(value)}")
    _bounded("".join(value))
    for option in value:
        _bounded(option, MOST_LITERAL)
    return Choice(tuple(dict.fromkeys(value)))


def check_literals(schema: Any) -> None:
    """ValidationError if a text that is to be written as it stands, or a pattern, is too long."""
    for text in _literals(schema):
        _bounded(text, MOST_LITERAL)


def _literals(schema: Any, written: bool = False) -> Iterator[str]:
    """Names, patterns, and what is under `const` and `enum`; but not what only describes."""
    if isinstance(schema, str) and written:
        yield schema
    elif isinstance(schema, Mapping):
        for key, value in schema.items():
            yield str(key)
            yield from _literals(value, written or key in ("const", "enum", "pattern"))
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _literals(value, written)


def _bounded(text: str, most: int = MOST_BYTES) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _wrong("it must be valid Unicode, without lone surrogates") from None
    if size > most:
        raise _wrong(
            f"{'it' if most == MOST_BYTES else 'a text in it'} has {size} bytes, and may have {most}"
        )
    return text


def _wrong(why: str) -> ValidationError:
    return ValidationError(f"grammar is not valid: {why}")
