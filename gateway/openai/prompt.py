"""From a chat to the text that the model continues, and what its answer must follow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.openai.errors import Invalid
from gateway.openai.messages import Habits, habits_of, plain
from gateway.openai.request import ChatRequest, Message, Part
from gateway.openai.tools import EXCLUSIVE, TOOL_PROMPT, UNTAUGHT, Offer, format_grammar, offer_of, row_of
from wire.chat import ChatTemplateError, render, variables_of
from wire.grammar import Grammar
from wire.tokenizer import Tokenizer
from wire.tools import Format

NO_TEMPLATE = "template not found"
"""TGI's words for a model without one."""

RESERVED = frozenset(
    (
        "template",
        "messages",
        "tools",
        "documents",
        "special_tokens",
        "add_generation_prompt",
        "continue_final_message",
    )
)
"""What `chat_template_kwargs` cannot set."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat, ready to be continued."""

    text: str
    grammar: Grammar | None
    row: Format | None
    """How calls are written in the answer; None: it has none."""


def build(asked: ChatRequest, tokenizer: Tokenizer, eos_ids: Sequence[int]) -> Prompt:
    """The prompt; Invalid, or ChatTemplateError."""
    offer = offer_of(asked)
    grammar = format_grammar(asked.response_format)
    template = tokenizer.tool_template if offer else tokenizer.chat_template
    if template is None:
        raise ChatTemplateError(NO_TEMPLATE)
    if offer is None:
        return Prompt(_render(asked, asked.messages, template, tokenizer, None), grammar, None)
    if grammar is not None:
        raise Invalid(EXCLUSIVE, "response_format")
    row = row_of(template)
    messages = _with_tool_prompt(asked, offer, row, template)
    text = _render(asked, messages, template, tokenizer, offer.shown)
    return Prompt(text, offer.grammar(row, tokenizer, eos_ids), row)


def _render(
    asked: ChatRequest,
    messages: Sequence[Message],
    template: str,
    tokenizer: Tokenizer,
    tools: list[dict[str, Any]] | None,
) -> str:
    variables = asked.chat_template_kwargs or {}
    if taken := RESERVED & variables.keys():
        raise Invalid(f"`chat_template_kwargs` cannot set {min(taken)!r}.", "chat_template_kwargs")
    continued, opened = _ending(asked)

    def attempt(habits: Habits, parsed: bool) -> str:
        return render(
            template,
            plain(messages, habits, parsed=parsed),
            special_tokens=tokenizer.special_tokens,
            tools=tools,
            documents=asked.documents,
            add_generation_prompt=opened,
            continue_final_message=continued,
            **variables,
        )

    habits = habits_of(template)
    try:
        return attempt(habits, parsed=True)
    except ChatTemplateError:
        if not any(message.tool_calls for message in messages):
            raise
    return attempt(habits, parsed=False)  # DeepSeek's add the arguments to a text


def _ending(asked: ChatRequest) -> tuple[bool, bool]:
    """(whether the last message is continued, whether an answer is begun)."""
    last, continued = asked.messages[-1], asked.continue_final_message
    if continued is None:
        unsaid = asked.add_generation_prompt is None
        continued = unsaid and last.role == "assistant" and last.content is not None and not last.tool_calls
    opened = not continued if asked.add_generation_prompt is None else asked.add_generation_prompt
    if continued and opened:
        raise Invalid(
            "`continue_final_message` and `add_generation_prompt` cannot both be true.",
            "continue_final_message",
        )
    return continued, opened


def _with_tool_prompt(asked: ChatRequest, offer: Offer, row: Format, template: str) -> Sequence[Message]:
    """As TGI: where the template shows no tools, they stand under the last message, and how to call them."""
    lines = [] if "tools" in variables_of(template) else [json.dumps(offer.shown, ensure_ascii=False)]
    if asked.tool_prompt is not None or row is UNTAUGHT:
        lines.append(TOOL_PROMPT if asked.tool_prompt is None else asked.tool_prompt)
    if not lines:
        return asked.messages
    note = "\n---\n" + "\n".join(lines)
    # What the assistant has begun is continued as it stands.
    at = next(
        (i for i in range(len(asked.messages) - 1, -1, -1) if asked.messages[i].role != "assistant"), -1
    )
    noted = [*asked.messages]
    noted[at] = msgspec.structs.replace(noted[at], content=_plus(noted[at], note))
    return noted


def _plus(message: Message, note: str) -> str | list[Part]:
    if isinstance(message.content, list):
        return [*message.content, Part(type="text", text=note)]
    return (message.content or "") + note
