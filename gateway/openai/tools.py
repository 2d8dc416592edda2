"""Tools and formats: what the answer must follow, and how calls are to be found in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.openai.errors import Invalid
from gateway.openai.request import ChatRequest, NamedTool, ResponseFormat, ToolSpec
from wire.errors import ValidationError
from wire.grammar import Grammar, JsonObject, of_any_schema, of_tgi
from wire.tokenizer import Tokenizer
from wire.tools import FORMATS, Format, Tool, format_of, grammar_of

UNTAUGHT = FORMATS[-1]
"""Of models that nobody taught to call: their prompt must say how."""

TOOL_PROMPT = (
    "To call functions, answer with nothing but a JSON array of the calls: "
    '[{"name": the function\'s name, "arguments": an object with its arguments}, ...]'
)
"""How, where the client has no words of its own."""

NO_ARGUMENTS = {"type": "object", "properties": {}}
EXCLUSIVE = "Tool error: Grammar and tools are mutually exclusive"
"""TGI's sentence."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools that a model is offered."""

    specs: tuple[ToolSpec, ...]
    required: str | bool
    """Whether one must be called: the one of this name, or any."""
    parallel: bool

    @property
    def shown(self) -> list[dict[str, Any]]:
        """For the template: as transformers writes them, whatever the order of the client's keys."""
        return [{"type": "function", "function": _shown(spec)} for spec in self.specs]

    def grammar(self, row: Format, tokenizer: Tokenizer, eos_ids: Sequence[int]) -> Grammar:
        """What the answer must follow; Invalid for tools that cannot be."""
        tools = [
            Tool(spec.function.name, msgspec.json.encode(parameters_of(spec)).decode())
            for spec in self.specs
            if not isinstance(self.required, str) or spec.function.name == self.required
        ]
        try:
            return grammar_of(
                tools,
                row,
                tokenizer.added,
                eos_ids,
                required=bool(self.required),
                parallel=self.parallel and not isinstance(self.required, str),
            )
        except ValidationError as error:
            raise Invalid(str(error), "tools") from None


def offer_of(asked: ChatRequest) -> Offer | None:
    """The tools that are in play, if any; Invalid."""
    specs, choice = asked.tools or [], asked.tool_choice
    if isinstance(choice, NamedTool):
        choice, named = choice.function.name, True
    else:
        named = choice not in (None, "auto", "none", "required")
    if not specs and (named or choice == "required"):
        raise Invalid("`tool_choice` is only allowed when `tools` are specified.", "tool_choice")
    for at, spec in enumerate(specs):
        if spec.type != "function":
            raise Invalid(
                f"Invalid value: {spec.type!r}. Supported values are: 'function'.", f"tools[{at}].type"
            )
    if named and choice not in [spec.function.name for spec in specs]:
        raise Invalid(f"Invalid value: {choice!r}. `tool_choice` names no tool of `tools`.", "tool_choice")
    if not specs or (choice == "none" and not named):
        return None
    required = choice if named and choice else choice == "required"
    return Offer(tuple(specs), required, parallel=asked.parallel_tool_calls is not False)


def row_of(template: str) -> Format:
    """How a model of this template writes calls."""
    return format_of(template)


def parameters_of(spec: ToolSpec) -> dict[str, Any]:
    """The schema of its arguments; without one it takes none."""
    function = spec.function
    return function.parameters or function.arguments or NO_ARGUMENTS


def _shown(spec: ToolSpec) -> dict[str, Any]:
    described = {} if spec.function.description is None else {"description": spec.function.description}
    return {"name": spec.function.name, **described, "parameters": parameters_of(spec)}


def format_grammar(asked: ResponseFormat | None) -> Grammar | None:
    """What `response_format` demands of the answer; Invalid."""
    if asked is None or asked.type == "text":
        return None
    try:
        return _format_grammar(asked)
    except ValidationError as error:
        if isinstance(error, Invalid):
            raise
        sentence = str(error).replace("grammar is not valid", "Invalid `response_format`")
        raise Invalid(sentence, "response_format") from None


def _format_grammar(asked: ResponseFormat) -> Grammar:
    match asked.type:
        case "json_object" if asked.value is None:
            return JsonObject()
        case "json_schema" if asked.json_schema is not None:
            return of_any_schema(asked.json_schema.schema)
        case "json_schema" if asked.value is None:
            raise Invalid(
                "Missing required parameter: 'response_format.json_schema'.",
                "response_format.json_schema",
                "missing_required_parameter",
            )
        case "json" | "json_object" | "json_schema" | "regex":
            return of_tgi({"type": asked.type, "value": asked.value})
    raise Invalid(
        f"Invalid value: {asked.type!r}. Supported values are: 'text', 'json_object', 'json_schema', and TGI's "
        "'json' and 'regex'.",
        "response_format.type",
    )
