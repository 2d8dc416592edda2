"""Text out of token ids, one id at a time, and never half a character."""

from __future__ import annotations

from collections.abc import Sequence

from wire.tokenizer import Tokenizer

CONTEXT = 5
"""Prompt tokens that the first window sees, so that the space before the first word is kept."""

FARTHEST = 64
"""Prompt tokens looked at to find a window that begins on a whole character."""

MOST_HELD = 8
"""Tokens held for an incomplete character. The longest has 4 bytes: what is longer will not become one."""

_BROKEN = "\ufffd"


class Detokenizer:
    """Releases the text that each token completes; `flush` releases what never became a character.

    The window [context | held] is decoded as one, because a token's text depends on its neighbours: `context`
    is what the last release added, `held` came after it. Special tokens have no text and enter no window.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        """`prompt` is what the text continues; only its last tokens matter."""
        self._tokenizer = tokenizer
        # A prompt may end inside a character: the first generated tokens complete it, and show it.
        self._context, self._held = _tail(tokenizer, prompt)
        self._base = tokenizer.decode(self._context)

    def push(self, id: int) -> str:
        """The text that this token completes, possibly none."""
        if self._tokenizer.is_special(id):
            return ""
        self._held.append(id)
        text = self._tokenizer.decode(self._context + self._held)
        if text.endswith(_BROKEN) and len(self._held) < MOST_HELD:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """The text of what is still held, incomplete characters as U+FFFD."""
        return self._release(self._tokenizer.decode(self._context + self._held)) if self._held else ""

    def _release(self, text: str) -> str:
        released = text[len(self._base) :]
        self._context, self._held = self._held, []
        self._base = self._tokenizer.decode(self._context)
        return released


def _tail(tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[list[int], list[int]]:
    """The prompt's last tokens, and those of them that are the beginning of a character."""
    plain = [id for id in prompt[-FARTHEST:] if not tokenizer.is_special(id)]
    start = max(0, len(plain) - CONTEXT)
    # Begun inside a character, or inside a run of byte tokens, the window would be broken from its start.
    while start > 0 and tokenizer.decode(plain[start:]).startswith(_BROKEN):
        start -= 1
    for end in range(len(plain), max(start, len(plain) - 3) - 1, -1):
        if not tokenizer.decode(plain[start:end]).endswith(_BROKEN):
            return plain[start:end], plain[end:]
    return plain[start:], []
