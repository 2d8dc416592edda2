"""Chat templates: transformers' semantics, and nothing that a template can do to the process."""

from __future__ import annotations

import json

import pytest

from wire import chat
from wire.chat import ChatTemplateError, render
from wire.tokenizer import Tokenizer

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
TEMPLATE = """{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}
<|{{ message.role }}|>{% generation %}{{ message['content'] | trim }}{% endgeneration %}</s>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""


def test_a_template_renders_as_in_transformers() -> None:
    text = render(TEMPLATE, TURNS, special_tokens={"bos_token": "<s>"})
    assert text == "<s><|user|>Hi</s>\n<|assistant|>Ho</s>\n<|assistant|>"
    assert render(TEMPLATE, TURNS, add_generation_prompt=False).endswith("Ho</s>\n")


def test_json_is_plain_and_loops_can_be_left() -> None:
    tools = [{"name": "wetter <&>", "text": "größe"}]
    assert render("{{ tools | tojson }}", [], tools=tools) == json.dumps(tools, ensure_ascii=False)
    assert (
        render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", []) == "01"
    )
    assert render("{{ thinking }}", [], thinking=True) == "True"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "Expected"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "cannot take|unsafe|not safely"),
        ("{{ messages + 1 }}", "cannot take these messages"),
        ("{{ 'a' * 10**9 }}", "longer than"),
        ("{{ 9 ** 9 ** 9 }}", "power"),
        ("{% for i in range(10**9) %}{% endfor %}", "cannot take|range"),
    ],
)
def test_what_a_template_may_not_do_is_refused(template: str, words: str) -> None:
    with pytest.raises(ChatTemplateError, match=words):
        render(template, TURNS)


def test_time_and_length_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MOST_CHARACTERS", 100)
    with pytest.raises(ChatTemplateError, match="more than 100 characters"):
        render("{% for i in range(999) %}{{ 'abc' }}{% endfor %}", [])
    monkeypatch.setattr(chat, "SECONDS", 0.05)
    with pytest.raises(ChatTemplateError, match="ran longer"):
        render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", [])


def test_the_template_comes_from_the_tokenizer_files() -> None:
    bare = {"tokenizer.json": b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}'}
    named = {"chat_template": [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}]}
    config = json.dumps(named | {"eos_token": {"content": "</s>"}, "bos_token": None}).encode()
    tokenizer = Tokenizer.from_files(bare | {"tokenizer_config.json": config})
    assert tokenizer.chat_template == "x"
    assert tokenizer.special_tokens == {"eos_token": "</s>"}
    assert Tokenizer.from_files(bare | {"chat_template.jinja": b"z"}).chat_template == "z"
    assert Tokenizer.from_files(bare).chat_template is None
