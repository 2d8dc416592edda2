"""From OpenAI's messages to a model's prompt, and from a model's text to OpenAI's deltas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.openai.errors import Invalid
from gateway.openai.messages import habits_of
from gateway.openai.parameters import chat_parameters, completion_parameters
from gateway.openai.prompt import Prompt, build
from gateway.openai.request import parse_chat, parse_completion
from gateway.openai.tools import TOOL_PROMPT
from gateway.strict import OURS, TGIS
from wire.chat import ChatTemplateError
from wire.grammar import JsonObject, Lark, Regex, Schema
from wire.tokenizer import Tokenizer

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
SHOWN = "{{ messages | tojson }}{{ tools | tojson }}"
HERMES = SHOWN + '<tool_call> {"name": '
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look", "description": "About"}}


def tokenizer(template: Any) -> Tokenizer:
    config = json.dumps({"chat_template": template, "bos_token": "<s>"}).encode()
    bare = b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}'
    return Tokenizer.from_files({"tokenizer.json": bare, "tokenizer_config.json": config})


def prompt(template: Any, *messages: dict[str, Any], **asked: Any) -> Prompt:
    body = json.dumps({"messages": messages or [{"role": "user", "content": "hi"}], **asked}).encode()
    return build(parse_chat(body), tokenizer(template), ())


def shown(template: str, *messages: dict[str, Any], **asked: Any) -> Any:
    """What SHOWN was given as messages."""
    return json.JSONDecoder().raw_decode(prompt(template, *messages, **asked).text)[0]


def test_parts_are_one_text() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
        {"type": "refusal", "refusal": "c"},
    ]
    assert prompt(PLAIN, {"role": "user", "content": parts}).text == "<user>abc</><a>"
    for wrong in ({"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}):
        with pytest.raises(Invalid) as refused:
            prompt(PLAIN, {"role": "user", "content": [wrong]})
        assert refused.value.param == "messages[0].content[0]"


def test_a_template_that_reads_parts_alone_gets_them() -> None:
    template = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
    assert prompt(template, {"role": "user", "content": "hi"}).text == "[hi]"
    assert not habits_of(PLAIN).parts and not habits_of("{{ raise_exception('no') }}").parts


def test_the_developer_speaks_as_the_system_where_that_role_is_unknown() -> None:
    said = {"role": "developer", "content": "x"}
    assert prompt(PLAIN, said).text == "<system>x</><a>"
    assert prompt(PLAIN + "{# developer #}", said).text == "<developer>x</><a>"


def test_earlier_calls_are_given_as_transformers_has_them() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "content": "b", "tool_call_id": "call_1", "name": "look"}
    assert shown(SHOWN, asked, result) == [
        {"role": "assistant", "tool_calls": [call | {"function": {"name": "look", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "b", "name": "look", "tool_call_id": "call_1"},
    ]
    cut_off = call | {"function": {"name": "look", "arguments": '{"a'}}
    given = shown(SHOWN, asked | {"tool_calls": [cut_off]})
    assert given[0]["tool_calls"][0]["function"]["arguments"] == '{"a'


def test_where_arguments_are_added_to_a_text_they_are_text() -> None:
    template = (
        "{% for m in messages if m.content is none %}{{ 'call ' + m.tool_calls[0].function.arguments }}{% endfor %}"
        "{% for m in messages if m.content is not none %}{{ 'say ' + m.content }}{% endfor %}"
    )
    call = {"function": {"name": "look", "arguments": {"a": 1}}}
    assert prompt(template, {"role": "assistant", "tool_calls": [call]}).text == 'call {"a":1}'


def test_ids_fit_templates_that_want_nine_characters() -> None:
    template = SHOWN + "{% if messages[0].tool_call_id|length != 9 %}{{ raise_exception('9') }}{% endif %}"
    first = shown(template, {"role": "tool", "content": "x", "tool_call_id": "call_123"})
    again = shown(template, {"role": "tool", "content": "x", "tool_call_id": "call_123"})
    assert first == again and first[0]["tool_call_id"].isalnum()
    fitting = shown(template, {"role": "tool", "content": "x", "tool_call_id": "abcdefgh1"})
    assert fitting[0]["tool_call_id"] == "abcdefgh1"


def test_a_last_word_of_the_assistant_is_continued() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so "}]
    assert prompt(PLAIN, *turns).text == "<user>hi</><assistant>so "
    assert prompt(PLAIN.replace("m.content", "m.content | trim"), *turns).text == "<user>hi</><assistant>so"
    assert prompt(PLAIN, *turns, continue_final_message=False).text == "<user>hi</><assistant>so </><a>"
    assert prompt(PLAIN, *turns, add_generation_prompt=True).text == "<user>hi</><assistant>so </><a>"
    assert prompt(PLAIN, *turns, add_generation_prompt=False).text == "<user>hi</><assistant>so </>"
    assert prompt(PLAIN, turns[0], continue_final_message=True).text == "<user>hi"
    with pytest.raises(ChatTemplateError, match="does not show"):
        prompt("{{ messages[0].content }}", *turns)


def test_a_model_without_a_template() -> None:
    with pytest.raises(ChatTemplateError, match="^template not found$"):
        prompt(None)


def test_variables_reach_the_template() -> None:
    template = "{{ bos_token }}{{ thinking }}{{ documents[0].text }}"
    asked = {"chat_template_kwargs": {"thinking": 1}, "documents": [{"text": "d"}]}
    assert prompt(template, **asked).text == "<s>1d"
    with pytest.raises(Invalid, match="cannot set 'tools'"):
        prompt(template, chat_template_kwargs={"tools": []})


def test_tools_are_shown_in_one_order() -> None:
    jumbled = {"function": {"arguments": {"type": "object"}, "name": "look", "description": "About"}}
    text = prompt(HERMES, tools=[jumbled]).text
    function = {"name": "look", "description": "About", "parameters": {"type": "object"}}
    assert json.dumps([{"type": "function", "function": function}]) in text and TOOL_PROMPT not in text
    assert prompt(HERMES, tools=[jumbled], tool_prompt="Use it.").text.count("hi\\n---\\nUse it.") == 1
    untold = prompt(HERMES, tools=[jumbled], tool_choice="none")
    assert "look" not in untold.text and untold.row is None and untold.grammar is None


def test_where_the_template_shows_no_tools_the_last_message_does() -> None:
    asked = prompt(PLAIN, tools=[TOOL])
    tools = json.dumps(
        [
            {
                "type": "function",
                "function": TOOL["function"] | {"parameters": {"type": "object", "properties": {}}},
            }
        ]
    )
    assert asked.text == f"<user>hi\n---\n{tools}\n{TOOL_PROMPT}</><a>"
    assert asked.row is not None and asked.row.name == "json" and isinstance(asked.grammar, Lark)
    mine = prompt(
        PLAIN, {"role": "user", "content": [{"type": "text", "text": "hi"}]}, tools=[TOOL], tool_prompt="!"
    )
    assert mine.text == f"<user>hi\n---\n{tools}\n!</><a>"
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}]
    assert prompt(PLAIN, *begun, tools=[TOOL]).text.endswith("<assistant>so")


def test_a_template_of_its_own_for_tools() -> None:
    both = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools }}"}]
    assert prompt(both).text == "plain" and prompt(both, tools=[TOOL]).text.startswith("tools")


@pytest.mark.parametrize(
    ("choice", "start", "several"),
    [
        ("auto", "start: ", True),
        ("required", "start: calls\n", True),
        ("look", "start: calls\n", False),
        ({"type": "function", "function": {"name": "look"}}, "start: calls\n", False),
    ],
)
def test_tool_choices(choice: Any, start: str, several: bool) -> None:
    other = {"function": {"name": "other"}}
    grammar = prompt(HERMES, tools=[TOOL, other], tool_choice=choice).grammar
    assert isinstance(grammar, Lark) and start in grammar.text
    assert ("other" in grammar.text) is several and (
        ")*" in grammar.text.split("calls:")[1].split("\n")[0]
    ) is several
    one = prompt(HERMES, tools=[TOOL], tool_choice="required", parallel_tool_calls=False).grammar
    assert isinstance(one, Lark) and '\\n" call)*' not in one.text


@pytest.mark.parametrize(
    ("format", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonObject()),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}},
            Schema('{"type":"array"}'),
        ),
        ({"type": "json_object", "value": {"properties": {}}}, Schema('{"properties":{}}')),
        ({"type": "json_schema", "value": {"schema": {"properties": {}}}}, Schema('{"properties":{}}')),
        ({"type": "json", "value": '{"properties": {}}'}, Schema('{"properties":{}}')),
        ({"type": "regex", "value": "a+"}, Regex("a+")),
    ],
)
def test_response_formats(format: dict[str, Any], grammar: Any) -> None:
    assert prompt(PLAIN, response_format=format).grammar == grammar


def test_parameters() -> None:
    def of(**asked: Any) -> Any:
        return chat_parameters(
            parse_chat(json.dumps({"messages": [{"role": "user"}], **asked}).encode()), None, OURS
        )

    assert of().do_sample and not of().include_stop and not of().add_special_tokens and of().n == 1
    for greedy in ({"temperature": 0}, {"top_p": 0}):
        assert not of(**greedy, top_k=3).sampling
    assert of(top_p=1).top_p is None and of(top_p=0.5).top_p == 0.5
    assert of(top_k=-1).top_k is None and of(top_k=0).top_k is None
    assert of(stop="a").stop == ["a"] and of(seed=-1).seed == 2**64 - 1
    assert of(max_tokens=1, max_completion_tokens=2).max_new_tokens == 2
    assert of(logprobs=True, top_logprobs=3).top_n_tokens == 3 and of(logprobs=True).top_n_tokens is None
    assert of(logit_bias=[0.1]).logit_bias is None and of(logit_bias={"5": 1}).logit_bias == {"5": 1.0}
    assert of(min_tokens=2, stop_token_ids=[1], ignore_eos=True, include_stop_str_in_output=True).include_stop
    assert of(presence_penalty=1).presence_penalty == 1
    asked = parse_chat(b'{"messages": [{"role": "user"}], "presence_penalty": -0.5}')
    shifted = chat_parameters(asked, None, TGIS)
    assert shifted.repetition_penalty == 1.5 and shifted.presence_penalty is None
    best = completion_parameters(
        parse_completion(b'{"prompt": "a", "best_of": 3, "n": 2, "max_tokens": 0, "echo": true}')
    )
    assert best.best_of == 3 and best.n == 2 and best.max_new_tokens == 1 and best.add_special_tokens
    assert completion_parameters(parse_completion(b'{"prompt": "a", "best_of": 2, "n": 2}')).best_of is None
