"""One text of an answer, taken apart as its tokens come."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from gateway.strict import Quirks
from wire.calls import Called, CallReader, Piece, Said
from wire.events import Token
from wire.job import FinishReason
from wire.tokenizer import Tokenizer
from wire.tools import Format

FINISHED = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}
"""TGI's reasons in OpenAI's words."""

TGIS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop_sequence"}
"""The same as TGI's routes of OpenAI's API say them."""


def reason_of(given: FinishReason, calls: bool, quirks: Quirks) -> str:
    """Why a text ended."""
    if quirks.finish_reasons:
        return TGIS[given]
    reason = FINISHED[given]
    return "tool_calls" if calls and reason == "stop" else reason


def call_id(job_id: str, choice: int, index: int) -> str:
    """The id of the `index`th call in that text: nobody guesses another's."""
    return "call_" + hashlib.blake2b(f"{job_id} {choice} {index}".encode(), digest_size=12).hexdigest()


def markers_of(row: Format, tokenizer: Tokenizer) -> dict[int, str]:
    """The tokens that are text to whoever reads calls, though they are none to others."""
    added = tokenizer.added
    return {added[marker]: marker for marker in row.markers if marker in added}


class Choice:
    """What one text says and calls."""

    def __init__(self, row: Format | None, markers: Mapping[int, str]) -> None:
        """`row`: how calls are written, if there may be any; `markers` of markers_of."""
        self._reader = CallReader(row) if row else None
        self._markers = markers
        self.calls = 0
        """Begun so far."""

    def feed(self, token: Token) -> list[Piece]:
        """What is certain with this token."""
        if self._reader is None:
            return [Said(token.text)] if token.text else []
        return self._counted(self._reader.feed(token.text or self._markers.get(token.id, "")))

    def finish(self) -> list[Piece]:
        """What was held back: the text ends here."""
        return [] if self._reader is None else self._counted(self._reader.finish())

    def _counted(self, pieces: list[Piece]) -> list[Piece]:
        self.calls += sum(isinstance(piece, Called) for piece in pieces)
        return pieces
