"""From a model's text back to its tool calls, as the text comes: for whoever streams arguments on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from wire.stop import beginning
from wire.tools import NAME, Format


@dataclass(frozen=True, slots=True)
class Said:
    """Text that belongs to no call."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call begins: the `index`th of the text, from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Argued:
    """More of that call's arguments, which are one JSON object when all of them are there."""

    index: int
    text: str


Piece: TypeAlias = Said | Called | Argued


class CallReader:
    """Give it text in which special tokens that are markers are spelled out. How it is cut changes no piece's place.

    What looks like a call and turns out to be none is said, as it stands; after it nothing is taken for a call.
    """

    def __init__(self, row: Format) -> None:
        self._row = row
        self._buffer = ""
        self._opened = row.start + row.open
        """What led to the name that is being read: it is said after all if none comes."""
        self._state: Callable[[], list[Piece] | None] = self._text
        self._index = -1
        self._depth, self._quoted, self._escaped = 0, False, False

    def feed(self, text: str) -> list[Piece]:
        """What is certain now."""
        self._buffer += text
        pieces: list[Piece] = []
        while (found := self._state()) is not None:
            pieces += found
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back; the text ends here."""
        pieces: list[Piece] = []
        if self._state == self._text:
            pieces = self._say(len(self._buffer))
        elif self._state == self._name:
            pieces = [Said(self._opened + self._buffer)]
        self._buffer = ""
        return pieces

    # Each state takes what it can of the buffer; None: it needs more text.

    def _text(self) -> list[Piece] | None:
        """Until calls begin."""
        lead = self._row.start + self._row.open
        at = self._buffer.find(lead) if self._row.anywhere else 0 if self._buffer.startswith(lead) else -1
        if at >= 0:
            pieces = self._say(at)
            self._buffer, self._state = self._buffer[len(lead) :], self._name
            return pieces
        if not self._row.anywhere:
            return None if lead.startswith(self._buffer) else self._over()
        return self._say(len(self._buffer) - beginning(self._buffer, lead)) or None

    def _name(self) -> list[Piece] | None:
        middle = self._row.middle
        name, found, rest = self._buffer.partition(middle)
        if not found:
            name = name[: len(name) - beginning(name, middle)]
            return None if not name or NAME.fullmatch(name) else self._over(self._opened)
        if not NAME.fullmatch(name):
            return self._over(self._opened)
        self._index += 1
        self._buffer, self._state = rest, self._arguments
        return [Called(self._index, name)]

    def _arguments(self) -> list[Piece] | None:
        """Until the object's last brace."""
        for at, character in enumerate(self._buffer):
            self._scan(character)
            if not self._depth:
                self._state = self._close if character == "}" else self._over
                return self._argue(at + (character == "}"))
        return self._argue(len(self._buffer)) or None

    def _scan(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._quoted and character == "\\":
            self._escaped = True
        elif character == '"':
            self._quoted = not self._quoted
        elif not self._quoted:
            self._depth += (character in "{[") - (character in "}]")

    def _close(self) -> list[Piece] | None:
        return self._expect({self._row.close: self._next})

    def _next(self) -> list[Piece] | None:
        """Another call, or the end of all."""
        row = self._row
        self._opened = row.join + row.open
        return self._expect({self._opened: self._name} | ({row.end: self._over} if row.end else {}))

    def _over(self, said: str = "") -> list[Piece] | None:
        """Nothing is a call any more."""
        self._state = self._over
        self._buffer = said + self._buffer
        return self._say(len(self._buffer)) or None

    def _expect(self, texts: dict[str, Callable[[], list[Piece] | None]]) -> list[Piece] | None:
        """Go on in the state of the text that comes next; if none of them does, nothing is a call any more."""
        for text, state in texts.items():
            if self._buffer.startswith(text):
                self._buffer, self._state = self._buffer[len(text) :], state
                return []
        return None if any(text.startswith(self._buffer) for text in texts) else self._over()

    def _say(self, count: int) -> list[Piece]:
        said, self._buffer = self._buffer[:count], self._buffer[count:]
        return [Said(said)] if said else []

    def _argue(self, count: int) -> list[Piece]:
        argued, self._buffer = self._buffer[:count], self._buffer[count:]
        return [Argued(self._index, argued)] if argued else []
