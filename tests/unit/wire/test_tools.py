"""Which format a template has, what a grammar over it says, and calls read back from text, however it is cut."""

from __future__ import annotations

import json
import random

import pytest

from wire.calls import Argued, Called, CallReader, Piece, Said
from wire.errors import ValidationError
from wire.tools import FORMATS, MOST_TOOLS, Format, Tool, format_of, grammar_of

BY_NAME = {row.name: row for row in FORMATS}

TEMPLATES = {
    "deepseek-v3": "'<｜tool▁call▁begin｜>' + t['type'] + '<｜tool▁sep｜>' + t['function']['name'] + '\\n' + "
    "'```json' + '\\n' + t['function']['arguments'] + '\\n' + '```' + '<｜tool▁call▁end｜>'",
    "deepseek-v3.1": "'<｜tool▁call▁begin｜>'+ t['function']['name'] + '<｜tool▁sep｜>' + t['function']['arguments']",
    "hermes": r'{{- "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" }}',
    "mistral-v11": '{{- "[TOOL_CALLS]" + t.function.name + "[ARGS]" + t.function.arguments|tojson }}',
    "mistral": '{{- "[TOOL_CALLS] [" }}{{- t.function|tojson }}',
    "mistral-tekken": '{{- "[TOOL_CALLS][" }}{{- t.function|tojson }}',
    "llama-3.1": """{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name' }}""",
    "json": "{% for message in messages %}{{ message.content }}{% endfor %}",
}


def test_every_row_has_a_template_by_which_it_is_found() -> None:
    assert {name: format_of(template).name for name, template in TEMPLATES.items()} == {n: n for n in BY_NAME}
    assert format_of(None).name == "json"


@pytest.mark.parametrize(
    "template",
    [
        "<tool_call>\n<function=example_function_name>\n<parameter=x>",  # Qwen3-Coder
        "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>",  # GLM 4.5
    ],
)
def test_other_formats_between_the_same_markers_are_not_mistaken(template: str) -> None:
    assert format_of(template).name == "json"


def written(row: Format, calls: list[tuple[str, str]]) -> str:
    """The calls as the model would write them."""
    return row.start + row.join.join(row.open + n + row.middle + a + row.close for n, a in calls) + row.end


def joined(pieces: list[Piece]) -> tuple[str, list[tuple[str, str]]]:
    """What was said, and the calls."""
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, Called):
            assert piece.index == len(calls)
            calls.append((piece.name, ""))
        elif isinstance(piece, Argued):
            assert piece.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.text)
    return said, calls


def read(row: Format, text: str, cuts: random.Random | None = None) -> tuple[str, list[tuple[str, str]]]:
    reader, pieces = CallReader(row), list[Piece]()
    while text:
        count = cuts.randint(1, 7) if cuts else len(text)
        pieces += reader.feed(text[:count])
        text = text[count:]
    return joined(pieces + reader.finish())


CALLS = [
    ("get_weather", '{"city": "Rome", "days": [1, {"x": "}\\"{"}]}'),
    ("get_weather_now", "{}"),
    ("a.b-c", '{ "text": "<tool_call>\\n[TOOL_CALLS] \\\\" }'),
]


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_was_written_is_read_back_however_it_is_cut(row: Format, count: int) -> None:
    text = written(row, CALLS[:count])
    assert read(row, text) == ("", CALLS[:count])
    for seed in range(30):
        assert read(row, text, random.Random(seed)) == ("", CALLS[:count])


@pytest.mark.parametrize("row", [row for row in FORMATS if row.anywhere], ids=lambda row: row.name)
def test_text_may_come_first(row: Format) -> None:
    before = "Let me see: <tool [TOOL <｜tool▁calls\n"
    for seed in range(30):
        assert read(row, before + written(row, CALLS), random.Random(seed)) == (before, CALLS)


@pytest.mark.parametrize("row", [row for row in FORMATS if not row.anywhere], ids=lambda row: row.name)
def test_without_a_marker_a_text_that_begins_otherwise_has_no_calls(row: Format) -> None:
    text = "Well: " + written(row, CALLS)
    for seed in range(30):
        assert read(row, text, random.Random(seed)) == (text, [])


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
@pytest.mark.parametrize("name", ["no name", "x" * 65, ""])
def test_what_only_looks_like_a_call_is_said_as_it_stands(row: Format, name: str) -> None:
    text = written(row, [(name, "{}")])
    for seed in range(30):
        assert read(row, text, random.Random(seed)) == (text, [])


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_a_text_that_is_cut_off_gives_what_there_is(row: Format) -> None:
    text = written(row, CALLS[:1])
    begun = len(row.start + row.open + CALLS[0][0] + row.middle)
    for end in range(len(text)):
        said, calls = read(row, text[:end], random.Random(end))
        if end < begun:
            assert (said, calls) == (text[:end], [])
        else:
            ((name, arguments),) = calls
            assert said == "" and name == CALLS[0][0] and CALLS[0][1].startswith(arguments)


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_text_after_the_calls_is_said(row: Format) -> None:
    for seed in range(30):
        said, calls = read(row, written(row, CALLS) + "Done.", random.Random(seed))
        assert (said, calls) == ("Done.", CALLS)


def test_arguments_are_passed_on_as_they_come() -> None:
    row = BY_NAME["hermes"]
    reader = CallReader(row)
    assert reader.feed("Hm. ") == [Said("Hm. ")]
    assert reader.feed("<tool_") == []
    assert reader.feed('call>\n{"name": "f"') == []
    assert reader.feed(', "arguments": {"x": 1') == [Called(0, "f"), Argued(0, '{"x": 1')]
    assert reader.feed("2}}") == [Argued(0, "2}")]


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ([], "between 1 and 128"),
        ([Tool(f"t{i}") for i in range(MOST_TOOLS + 1)], "between 1 and 128"),
        ([Tool("a b")], "letters, digits"),
        ([Tool("")], "letters, digits"),
        ([Tool('a"')], "letters, digits"),
        ([Tool("a\n")], "letters, digits"),
        ([Tool("a"), Tool("a")], "two tools of one name"),
        ([Tool("a", "{")], "not JSON"),
        ([Tool("a", "[" * 10**5)], "not JSON"),
        ([Tool("a", "[]")], "schema of an object"),
        ([Tool("a", '{"type":"string"}')], "schema of an object"),
        ([Tool("a", json.dumps({"description": "x" * 140_000}))], "too large"),
    ],
)
def test_tools_that_cannot_be_served_are_refused(tools: list[Tool], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        grammar_of(tools, BY_NAME["json"], {})


def test_a_marker_that_is_a_token_is_that_token() -> None:
    row = BY_NAME["hermes"]
    with_tokens = grammar_of(
        [Tool("f")], row, {"<tool_call>": 7, "</tool_call>": 8, "<eos>": 1, "<think>": 2}, [1]
    ).text
    assert "<[7]>" in with_tokens and "<[8]>" in with_tokens and "tool_call>" not in with_tokens
    assert "<[2]>" in with_tokens and "<[1" not in with_tokens  # text may have other tokens, but not the end
    assert "<[" not in grammar_of([Tool("f")], row, {}).text
