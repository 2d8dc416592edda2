"""From ids to what people read: detokenised, stopped, and rebuilt from the log by the same code."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from wire.detokenizer import Detokenizer
from wire.job import FinishReason, SamplingParams
from wire.stop import StopMatcher
from wire.tokenizer import Tokenizer


class Piece(NamedTuple):
    """What one token brought."""

    text: str
    """What it releases; the pieces' texts together are the whole text."""
    special: bool
    finish: FinishReason | None
    """Why the generation ended with this token, or None."""


class TextStream:
    """One choice's text. Ends as TGI does: by length first, then end of sequence, then stop token or string."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], params: SamplingParams, eos_ids: Collection[int]
    ) -> None:
        """`eos_ids` are the model's end-of-sequence ids."""
        self._tokenizer = tokenizer
        self._params = params
        self._eos_ids = frozenset(eos_ids)
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._stops = StopMatcher(params.stop, params.include_stop)
        self._pieces: list[str] = []
        self.count = 0
        """Tokens so far."""
        self.finish: FinishReason | None = None

    @property
    def text(self) -> str:
        """Everything released so far."""
        return "".join(self._pieces)

    def push(self, id: int) -> Piece:
        """Take the next token. After a piece with `finish` there is no next one."""
        self.count += 1
        params = self._params
        end = id in self._eos_ids
        ended_by_eos = end and not params.ignore_eos
        ended_by_id = id in params.stop_token_ids and not ended_by_eos
        silent = ended_by_eos or (ended_by_id and not params.include_stop)
        released = "" if silent else self._detokenizer.push(id)
        last = self.count >= params.max_new_tokens or ended_by_eos or ended_by_id
        released += self._detokenizer.flush() if last else ""
        text, stopped = self._stops.feed(released, may_end=self.count > params.min_new_tokens)
        if last and not stopped:
            text += self._stops.flush()
        self.finish = self._reason(ended_by_eos, stopped or ended_by_id)
        self._pieces.append(text)
        return Piece(text, end or self._tokenizer.is_special(id), self.finish)

    def replay(self, ids: Iterable[int]) -> FinishReason | None:
        """Take tokens that were delivered before: only the state matters. Stops where they end the text."""
        for id in ids:
            if self.push(id).finish:
                break
        return self.finish

    def _reason(self, ended_by_eos: bool, stopped: bool) -> FinishReason | None:
        if self.count >= self._params.max_new_tokens:
            return "length"
        if ended_by_eos:
            return "eos_token"
        return "stop_sequence" if stopped else None
