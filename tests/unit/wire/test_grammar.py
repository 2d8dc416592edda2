"""TGI's `grammar`: every form, and a sentence for everything that is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wire.errors import ValidationError
from wire.grammar import MOST_BYTES, MOST_LITERAL, MOST_OPTIONS, Choice, Regex, Schema, of_tgi

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
WRITTEN = Schema(json.dumps(SCHEMA, separators=(",", ":")))


LONG = "é" * (MOST_LITERAL // 2) + "e"


def schema(keyword: str, value: Any) -> dict[str, Any]:
    return {"properties": {"a": {keyword: value}}}


def test_a_long_description_is_not_written_by_the_model() -> None:
    assert of_tgi({"type": "json", "value": schema("description", LONG)})
    assert of_tgi({"type": "json", "value": schema("enum", [str(i) for i in range(4000)])})


@pytest.mark.parametrize(
    ("given", "grammar"),
    [
        ({"type": "json", "value": SCHEMA}, WRITTEN),
        ({"type": "json", "value": json.dumps(SCHEMA)}, WRITTEN),
        ({"type": "json_object", "value": SCHEMA}, WRITTEN),
        ({"type": "json_schema", "value": {"name": "a", "schema": SCHEMA}}, WRITTEN),
        ({"type": "regex", "value": "a|b"}, Regex("a|b")),
        ({"type": "choice", "value": ["a", "b", "a"]}, Choice(("a", "b"))),
    ],
)
def test_every_form(given: dict[str, Any], grammar: object) -> None:
    assert of_tgi(given) == grammar


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("a|b", "it is an object with `type` and `value`"),
        ({"value": "a"}, "it is an object with `type` and `value`"),
        (
            {"type": "gbnf", "value": "a"},
            "its `type` is one of json, json_object, json_schema, regex, choice",
        ),
        ({"type": "json", "value": {"type": "object"}}, "Grammar must have a 'properties' field"),
        ({"type": "json", "value": [1]}, "a schema is a JSON object, or a string that holds one"),
        ({"type": "json", "value": "{"}, "the schema is not JSON"),
        ({"type": "json", "value": "[" * 100_000}, "the schema is not JSON"),
        ({"type": "json", "value": {"properties": {"a": "\ud800"}}}, "the schema cannot be written as JSON"),
        ({"type": "json_schema", "value": SCHEMA}, "the `value` of a json_schema is an object with `schema`"),
        ({"type": "regex", "value": ""}, "the `value` of a regex is a string"),
        ({"type": "regex", "value": 3}, "the `value` of a regex is a string"),
        ({"type": "regex", "value": "\udfff"}, "it must be valid Unicode"),
        ({"type": "json", "value": schema("description", "a" * MOST_BYTES)}, f"and may have {MOST_BYTES}"),
        (
            {"type": "regex", "value": LONG},
            f"a text in it has {MOST_LITERAL + 1} bytes, and may have {MOST_LITERAL}",
        ),
        ({"type": "choice", "value": ["a", LONG]}, f"and may have {MOST_LITERAL}"),
        ({"type": "json", "value": schema("const", {"b": [LONG]})}, f"and may have {MOST_LITERAL}"),
        ({"type": "json", "value": schema("enum", ["a", LONG])}, f"and may have {MOST_LITERAL}"),
        ({"type": "json", "value": schema("pattern", LONG)}, f"and may have {MOST_LITERAL}"),
        ({"type": "json", "value": schema("properties", {LONG: {}})}, f"and may have {MOST_LITERAL}"),
        ({"type": "choice", "value": []}, "a choice is a list of strings, none of them empty"),
        ({"type": "choice", "value": ["a", ""]}, "a choice is a list of strings, none of them empty"),
        (
            {"type": "choice", "value": ["a"] * (MOST_OPTIONS + 1)},
            f"a choice has at most {MOST_OPTIONS} options",
        ),
    ],
)
def test_what_is_none_is_told(given: Any, why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        of_tgi(given)
    assert str(caught.value).startswith("grammar is not valid: ") and why in str(caught.value)
