"""Our renderer and transformers' `apply_chat_template`, byte for byte, over templates of the families that are served.

The templates in `templates/` are written for this test: each with the special tokens, the structure and the Jinja of
the family it is named after, and not a copy of any model's file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from wire.chat import ChatTemplateError, render

TEMPLATES = sorted((Path(__file__).parent / "templates").glob("*.jinja"))
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

USER = {"role": "user", "content": " What is <1 & 2>? \n"}
BOT = {"role": "assistant", "content": "Größe «3»  "}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {
    "role": "assistant",
    "tool_calls": [
        {
            "id": "abcdefgh1",
            "type": "function",
            "function": {"name": "look", "arguments": {"where": "dé\n", "n": 1.5, "all": None}},
        }
    ],
}
RESULT = {"role": "tool", "content": '{"seen": "ü"}', "tool_call_id": "abcdefgh1", "name": "look"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks <there>",
            "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
        },
    }
]

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "asked": [USER],
    "system": [SYSTEM, USER],
    "turns": [USER, BOT, USER],
    "long": [SYSTEM, USER, BOT, USER, BOT, USER],
    "thoughts": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nso"}, USER],
    "begun": [USER, BOT],
    "called": [USER, CALL, RESULT],
    "answered": [USER, CALL, RESULT, BOT, USER],
}
ENDINGS: list[dict[str, bool]] = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False},
]
if int(transformers.__version__.partition(".")[0]) >= 5:
    # Before, it looked for the message's text in the prompt: wrong of one between blanks, or that was said twice.
    ENDINGS.append({"add_generation_prompt": False, "continue_final_message": True})


def theirs(template: str, messages: list[dict[str, Any]], **how: Any) -> str | None:
    """What transformers makes of it; None if it is refused."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Backend(models.BPE()), chat_template=template, **TOKENS
    )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))
    except Exception:  # it lets the template's own errors through, whatever they are
        return None


def ours(template: str, messages: list[dict[str, Any]], **how: Any) -> str | None:
    try:
        return render(template, messages, special_tokens=TOKENS, **how)
    except ChatTemplateError:
        return None


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_the_same_prompt_as_transformers(path: Path) -> None:
    template, rendered = path.read_text(encoding="utf-8"), 0
    for name, messages in CONVERSATIONS.items():
        for tools in (None, TOOLS):
            for ending in ENDINGS:
                expected = theirs(template, messages, tools=tools, **ending)
                assert ours(template, messages, tools=tools, **ending) == expected, (
                    name,
                    bool(tools),
                    ending,
                )
                rendered += expected is not None
    assert rendered >= 12, "most of it is rendered, not refused on both sides"


def test_there_are_twenty() -> None:
    assert len(TEMPLATES) >= 20
    for path in TEMPLATES:
        how = {"documents": [{"title": "t", "text": "d"}], "enable_thinking": False, "date_string": "1 May"}
        template = path.read_text(encoding="utf-8")
        assert ours(template, [USER], **how) == theirs(template, [USER], add_generation_prompt=True, **how)
