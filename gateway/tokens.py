"""A text's tokens, as TGI's /tokenize and /chat_tokenize show them."""

from __future__ import annotations

from itertools import accumulate

import msgspec

from wire.tokenizer import Tokenizer


class SimpleToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token and its place in the text; a special one that was added has no text, and 0 and 0."""

    id: int
    text: str
    start: int
    """Bytes of UTF-8 before it."""
    stop: int


def tokens_of(tokenizer: Tokenizer, text: str, add_special_tokens: bool = True) -> list[SimpleToken]:
    """Each token of a valid Unicode text. Those that share a character have its whole place each, as in TGI."""
    places = _places(text)
    return [
        SimpleToken(id=id, text=text[start:stop], start=places[start], stop=places[stop])
        for id, start, stop in tokenizer.spans(text, add_special_tokens)
    ]


def _places(text: str) -> range | list[int]:
    """For each character, and for the end, how many bytes come before it."""
    if text.isascii():
        return range(len(text) + 1)
    return [0, *accumulate(len(character.encode()) for character in text)]
