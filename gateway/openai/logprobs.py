"""How likely the tokens of an answer were, in the two shapes that OpenAI has for it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from msgspec import UNSET

from gateway.openai.shapes import LegacyLogprobs, Logprobs, TokenLogprob, TopLogprob
from wire.events import Token
from wire.job import Scored
from wire.tokenizer import Tokenizer

NEVER = -9999.0
"""OpenAI's number for what JSON cannot hold: minus infinity."""


def number(logprob: float | None) -> float:
    """A log-probability that JSON can hold."""
    return NEVER if logprob is None else max(logprob, NEVER)


def spelled(token: bytes) -> str:
    """A token's text; bytes that are no whole character are escaped."""
    return token.decode(errors="backslashreplace")


def legacy_spelled(token: bytes) -> str:
    """The same as completions write it: such a token is named by all of its bytes."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def likeliest(token: Token) -> Sequence[Scored]:
    """What was reported beside the token."""
    return () if token.top is UNSET else token.top


def of_chat(tokenizer: Tokenizer, tokens: Sequence[Token]) -> Logprobs:
    """Of a chat's tokens."""
    return Logprobs([_of_token(tokenizer, token) for token in tokens])


def _of_token(tokenizer: Tokenizer, token: Token) -> TokenLogprob:
    own = _top(tokenizer, token.id, token.logprob)
    top = [_top(tokenizer, other.id, other.logprob) for other in likeliest(token)]
    return TokenLogprob(own.token, own.logprob, own.bytes, top)


def _top(tokenizer: Tokenizer, id: int, logprob: float | None) -> TopLogprob:
    data = tokenizer.token_bytes(id)
    return TopLogprob(spelled(data), number(logprob), [*data])


class LegacyTokens:
    """The tokens of one completion, as they come: where each begins hangs on those before it."""

    def __init__(self, tokenizer: Tokenizer, top: int) -> None:
        """`top`: how many of the likeliest were asked for."""
        self._tokenizer, self._top = tokenizer, top
        self._offset = 0

    def echoed(self, prompt: Sequence[Scored], text: str) -> LegacyLogprobs:
        """Of the prompt, whose text is shown before the completion. Only the tokens themselves are known there."""
        names, places = [], []
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for scored in prompt:
            data = self._tokenizer.token_bytes(scored.id)
            names.append(legacy_spelled(data))
            places.append(min(self._offset, len(text)))
            self._offset += 0 if self._tokenizer.is_special(scored.id) else len(decoder.decode(data))
        self._offset = len(text)
        logprobs = [scored.logprob if scored.logprob is None else number(scored.logprob) for scored in prompt]
        pairs = zip(names, logprobs, strict=True)
        tops = [None if logprob is None else {name: logprob} for name, logprob in pairs]
        return LegacyLogprobs(
            tokens=names,
            token_logprobs=[*logprobs],
            top_logprobs=tops if self._top else None,
            text_offset=places,
        )

    def of(self, tokens: Sequence[Token]) -> LegacyLogprobs:
        """Of the next tokens."""
        places = []
        for token in tokens:
            places.append(self._offset)
            self._offset += len(token.text)
        return LegacyLogprobs(
            tokens=[self._name(token.id) for token in tokens],
            token_logprobs=[number(token.logprob) for token in tokens],
            top_logprobs=[self._likeliest(token) for token in tokens] if self._top else None,
            text_offset=places,
        )

    def _likeliest(self, token: Token) -> dict[str, float] | None:
        """By text, the token itself among them."""
        found = {self._name(other.id): number(other.logprob) for other in likeliest(token)}
        return found | {self._name(token.id): number(token.logprob)}

    def _name(self, id: int) -> str:
        return legacy_spelled(self._tokenizer.token_bytes(id))


def joined(parts: Sequence[LegacyLogprobs]) -> LegacyLogprobs:
    """Those of a text out of those of its pieces."""
    tops = [part.top_logprobs for part in parts]
    return LegacyLogprobs(
        tokens=[token for part in parts for token in part.tokens],
        token_logprobs=[logprob for part in parts for logprob in part.token_logprobs],
        top_logprobs=None if None in tops else [top for part in tops for top in part or ()],
        text_offset=[place for part in parts for place in part.text_offset],
    )
