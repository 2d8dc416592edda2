"""Tool calls as each family of models writes them: a table, the grammar over a row of it, and the way back from text.

The rows follow the models' own chat templates, and vLLM's parsers where a template leaves it open (how several calls
are joined). A marker that the tokenizer has as a token of its own can only be written by that token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from wire.errors import ValidationError
from wire.grammar import BLANKS, MOST_BYTES, Lark, check_literals

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a tool may be called; nothing in it must be escaped, in any of the formats."""
MOST_TOOLS = 128
"""As OpenAI has it."""


class Tool(msgspec.Struct, frozen=True):
    """What a model may call."""

    name: str
    parameters: str = '{"type":"object"}'
    """The JSON schema of its arguments, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a family writes calls: `start`, calls joined by `join`, `end`; a call is open, name, middle, JSON, close."""

    name: str
    signs: tuple[str, ...]
    """What its chat templates have in them, all of it, their backslashes left out."""
    markers: tuple[str, ...] = ()
    """Parts of the texts below that may be tokens of their own."""
    anywhere: bool = True
    """Whether text may come before the calls; else a text that begins as they do is one."""
    start: str = ""
    open: str
    middle: str
    close: str
    join: str
    end: str = ""


_V3 = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)

FORMATS: tuple[Format, ...] = (
    Format(
        name="deepseek-v3",
        signs=("<｜tool▁sep｜>", "```json"),
        markers=_V3,
        start=_V3[0],
        open=f"{_V3[1]}function{_V3[2]}",
        middle="\n```json\n",
        close=f"\n```{_V3[3]}",
        join="\n",
        end=_V3[4],
    ),
    Format(
        name="deepseek-v3.1",
        signs=("<｜tool▁sep｜>",),
        markers=_V3,
        start=_V3[0],
        open=_V3[1],
        middle=_V3[2],
        close=_V3[3],
        join="",
        end=_V3[4],
    ),
    Format(  # Qwen 2.5 and 3 too; Qwen3-Coder and GLM have other things between these markers
        name="hermes",
        signs=("<tool_call>", '{"name": '),
        markers=("<tool_call>", "</tool_call>"),
        open='<tool_call>\n{"name": "',
        middle='", "arguments": ',
        close="}\n</tool_call>",
        join="\n",
    ),
    Format(  # tokenizers of version 11 and later
        name="mistral-v11",
        signs=("[TOOL_CALLS]", "[ARGS]"),
        markers=("[TOOL_CALLS]", "[ARGS]"),
        open="[TOOL_CALLS]",
        middle="[ARGS]",
        close="",
        join="",
    ),
    Format(
        name="mistral",
        signs=("[TOOL_CALLS] [",),
        markers=("[TOOL_CALLS]",),
        start="[TOOL_CALLS] [",
        open='{"name": "',
        middle='", "arguments": ',
        close="}",
        join=", ",
        end="]",
    ),
    Format(
        name="mistral-tekken",
        signs=("[TOOL_CALLS]",),
        markers=("[TOOL_CALLS]",),
        start="[TOOL_CALLS][",
        open='{"name": "',
        middle='", "arguments": ',
        close="}",
        join=", ",
        end="]",
    ),
    Format(  # calls of tools that are not built in have no marker
        name="llama-3.1",
        signs=('{"name": ', '"parameters": dictionary'),
        anywhere=False,
        open='{"name": "',
        middle='", "parameters": ',
        close="}",
        join="; ",
    ),
    Format(
        name="json",
        signs=(),
        anywhere=False,
        start="[",
        open='{"name": "',
        middle='", "arguments": ',
        close="}",
        join=", ",
        end="]",
    ),
)
"""More particular rows first; the last is for models that nobody taught, whose prompt must say how."""


def format_of(chat_template: str | None) -> Format:
    """The first row all of whose signs the template has."""
    plain = (chat_template or "").replace("\\", "")
    return next(row for row in FORMATS if all(sign in plain for sign in row.signs))


def grammar_of(
    tools: Sequence[Tool],
    row: Format,
    added: Mapping[str, int],
    eos_ids: Collection[int] = (),
    *,
    required: bool = False,
    parallel: bool = True,
) -> Lark:
    """What the model may write; ValidationError for tools that cannot be told apart, or written.

    `added`: Tokenizer.added. `required`: calls and nothing else. `parallel`: also more than one. A tool that was
    named is the only one, required and not parallel.
    """
    _check(tools)
    writer = _Writer(tools, row, added, eos_ids, parallel)
    lark = "\n".join(["%llguidance {}", *(writer.required() if required else writer.auto()), ""])
    if len(lark.encode()) > MOST_BYTES:
        raise ValidationError(f"`tools` are too large: their grammar has more than {MOST_BYTES} bytes")
    return Lark(lark)


class _Writer:
    """The rules of one grammar."""

    def __init__(
        self,
        tools: Sequence[Tool],
        row: Format,
        added: Mapping[str, int],
        eos_ids: Collection[int],
        parallel: bool,
    ) -> None:
        self._tools, self._row, self._parallel = tools, row, parallel
        self._ids = {marker: added[marker] for marker in row.markers if marker in added}
        others = sorted({*added.values()} - {*self._ids.values()} - {*eos_ids})
        self._others = f" | <[{','.join(map(str, others))}]>" if others else ""

    def required(self) -> Iterator[str]:
        """Calls alone."""
        yield "start: calls"
        yield from self._calls()
        yield from self._call("call")
        yield from self._arguments()

    def auto(self) -> Iterator[str]:
        """Text in which there may be calls, and then nothing more."""
        yield "TEXT: /(.|\\n)+/"
        trigger = self._row.start or self._row.open
        if not self._row.anywhere:
            yield "start: calls | said"
            yield f"said: (HEAD{self._others}) (TEXT{self._others})* |"
            yield f"HEAD: /[^{re.escape(trigger[0])}]/"
        elif any(trigger.startswith(marker) for marker in self._ids):
            yield "start: said calls?"
            yield f"said: (TEXT{self._others})*"
        else:
            yield from self._spelled(next(m for m in self._row.markers if trigger.startswith(m)))
            return
        yield from self._calls()
        yield from self._call("call")
        yield from self._arguments()

    def _spelled(self, marker: str) -> Iterator[str]:
        """The same where no token stands for the marker: text goes on until it is spelled."""
        yield "start: TEXT? | before calls"
        yield f"before[lazy]: TEXT? {_quoted(marker)}"
        if self._row.start:
            yield from self._calls(cut=len(marker))
        else:
            yield from self._calls(first="first")
            yield from self._call("first", cut=len(marker))
        yield from self._call("call")
        yield from self._arguments()

    def _calls(self, first: str = "call", cut: int = 0) -> Iterator[str]:
        row = self._row
        more = f"({' '.join([*self._parts(row.join), 'call'])})*" if self._parallel else ""
        yield " ".join(["calls:", *self._parts(row.start[cut:]), first, more, *self._parts(row.end)])

    def _call(self, rule: str, cut: int = 0) -> Iterator[str]:
        row = self._row
        yield f"{rule}: " + " | ".join(f"{rule}_{index}" for index in range(len(self._tools)))
        for index, tool in enumerate(self._tools):
            head, tail = self._parts(row.open[cut:] + tool.name + row.middle), self._parts(row.close)
            yield " ".join([f"{rule}_{index}:", *head, f"arguments_{index}", *tail])

    def _arguments(self) -> Iterator[str]:
        for index, tool in enumerate(self._tools):
            schema = msgspec.json.decode(tool.parameters) | {"x-guidance": {"whitespace_pattern": BLANKS}}
            yield f"arguments_{index}: %json {json.dumps(schema)}"

    def _parts(self, text: str) -> Iterator[str]:
        """The symbols of a literal text: markers that are tokens by their ids."""
        pieces = re.split("(" + "|".join(map(re.escape, self._ids)) + ")", text) if self._ids else [text]
        for piece in filter(None, pieces):
            yield f"<[{self._ids[piece]}]>" if piece in self._ids else _quoted(piece)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _check(tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    if not 0 < len(names) <= MOST_TOOLS:
        raise ValidationError(f"`tools` must have between 1 and {MOST_TOOLS} entries. Given: {len(names)}")
    for name in names:
        if not NAME.fullmatch(name):
            raise ValidationError(
                f"a tool's name has 1 to 64 letters, digits, `_`, `.` or `-`. Given: {name[:80]!r}"
            )
    if len({*names}) < len(names):
        raise ValidationError("`tools` has two tools of one name")
    for tool in tools:
        try:
            schema = msgspec.json.decode(tool.parameters)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValidationError(f"the parameters of tool {tool.name!r} are not JSON: {error}") from None
        if not isinstance(schema, dict) or schema.get("type", "object") != "object":
            raise ValidationError(f"the parameters of tool {tool.name!r} must be a JSON schema of an object")
        check_literals(schema)
