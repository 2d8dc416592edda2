"""Grammars over tool-call formats, as llguidance reads them: with tokenizers that have the markers and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers

from models import grammar
from models.grammar import Grammars
from tests.support import tiny
from tests.unit.wire.test_tools import BY_NAME, written
from wire.tokenizer import Tokenizer
from wire.tools import FORMATS, Format, Tool, grammar_of

Accepts = Callable[..., bool]

TOOLS = [
    Tool(
        "get_weather",
        '{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"array"}},"required":["city"]}',
    ),
    Tool("get_weather_now", '{"type":"object","properties":{},"additionalProperties":false}'),
    Tool("a.b-c"),
]
CALLS = [
    ("get_weather", '{"city": "Rome", "days": [1, {"x": "}\\"{"}]}'),
    ("get_weather_now", "{}"),
    ("a.b-c", '{ "text": "\\\\ 8" }'),
]
WRONG = [("get_weather", "{}"), ("get_weather_now", '{"x":1}'), ("get", "{}"), ("a.b-c", "[]")]


@pytest.fixture(scope="module", params=[True, False], ids=["tokens", "spelled"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer, with every format's markers as tokens or with none."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    path = str(folder / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(path)
    if request.param:
        markers = dict.fromkeys(marker for row in FORMATS for marker in row.markers)
        # Some models have them as special tokens, some not.
        tokenizer.add_tokens(
            [tokenizers.AddedToken(m, special=not m.startswith("<t")) for m in (*markers, "<think>")]
        )
        tokenizer.save(path)
    return folder


@pytest.fixture
def accepts(folder: Path) -> Accepts:
    """Whether a whole text is of the grammar over these tools."""
    tokenizer = Tokenizer.from_folder(folder)
    grammars = Grammars(folder / "tokenizer.json", tokenizer.vocab_size, [tiny.EOS])

    def accepts(row: Format, text: str, tools: list[Tool] = TOOLS, **choice: bool) -> bool:
        lark = grammar_of(tools, row, tokenizer.added, [tiny.EOS], **choice)
        at = grammars.compile(grammar.of_lark(lark.text))
        ids = tokenizer.encode(text, add_special_tokens=False)
        return at.try_consume_tokens(ids) == len(ids) and at.is_accepting()

    return accepts


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
@pytest.mark.parametrize("required", [True, False])
class TestCalls:
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_what_the_model_would_write_is_allowed(
        self, accepts: Accepts, row: Format, required: bool, count: int
    ) -> None:
        assert accepts(row, written(row, CALLS[:count]), required=required)

    def test_one_call_at_most_unless_parallel(self, accepts: Accepts, row: Format, required: bool) -> None:
        assert accepts(row, written(row, CALLS[:1]), required=required, parallel=False)
        assert not accepts(row, written(row, CALLS[:2]), required=required, parallel=False)

    @pytest.mark.parametrize("call", WRONG)
    def test_calls_that_no_tool_takes_are_not(
        self, accepts: Accepts, row: Format, required: bool, call: tuple[str, str]
    ) -> None:
        assert not accepts(row, written(row, [call]), required=required)

    def test_nothing_comes_after_them(self, accepts: Accepts, row: Format, required: bool) -> None:
        assert not accepts(row, written(row, CALLS[:1]) + "Done.", required=required)


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_text_is_for_auto_alone(accepts: Accepts, row: Format) -> None:
    for text in ("", "No.", "One <two> three\n\n{}"):
        assert accepts(row, text)
        assert not accepts(row, text, required=True)


@pytest.mark.parametrize("row", [row for row in FORMATS if row.anywhere], ids=lambda row: row.name)
def test_text_may_come_before_a_call_that_is_then_whole(accepts: Accepts, row: Format) -> None:
    text = "Let me see.\n" + written(row, CALLS)
    assert accepts(row, text)
    assert not accepts(row, text[:-1])
    assert not accepts(row, text, required=True)


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_a_named_tool_is_the_only_one(accepts: Accepts, row: Format) -> None:
    choice = {"tools": TOOLS[:1], "required": True, "parallel": False}
    assert accepts(row, written(row, CALLS[:1]), **choice)
    assert not accepts(row, written(row, CALLS[1:2]), **choice)


def test_text_may_have_other_tokens_of_the_model(accepts: Accepts) -> None:
    assert accepts(BY_NAME["hermes"], "<think>Hm.</think>" + written(BY_NAME["hermes"], CALLS))
