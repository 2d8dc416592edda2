"""Stop strings, found across tokens; the answer does not depend on how the text was cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text on until a stop string is complete: the one that ends first, of those the longest.

    `include`: the stop string stays in the text (TGI); otherwise it is cut off, and the longest suffix that
    could still become one is held back until it is clear.
    """

    def __init__(self, stops: Sequence[str], include: bool) -> None:
        """Empty strings are no stop strings."""
        self._stops = tuple(stop for stop in stops if stop)
        self._include = include
        self._memory = max((len(stop) - 1 for stop in self._stops), default=0)
        self._seen = ""
        """The last `_memory` characters; a stop string may have begun in them."""
        self._held = 0
        """How many of them were not released yet."""

    def feed(self, text: str, may_end: bool = True) -> tuple[str, bool]:
        """What may be shown now, and whether a stop string ended the text: nothing may be fed after that.

        Without `may_end` those that end in this text are passed over.
        """
        if not self._stops or not text:
            return text, False
        buffer = self._seen + text
        shown = len(self._seen) - self._held
        if may_end and (match := self._find(buffer)):
            start, end = match
            self._seen, self._held = "", 0
            return buffer[shown : end if self._include else start], True
        held = (beginning(buffer, stop) for stop in self._stops)
        self._held = 0 if self._include else max(held)
        self._seen = buffer[max(0, len(buffer) - self._memory) :]
        return buffer[shown : len(buffer) - self._held], False

    def flush(self) -> str:
        """What was held back; the text ends here."""
        held, self._held = self._seen[len(self._seen) - self._held :], 0
        return held

    def _find(self, buffer: str) -> tuple[int, int] | None:
        """Where the stop string begins and ends that ends first in what is new of the buffer."""
        found = []
        for stop in self._stops:
            start = buffer.find(stop, max(0, len(self._seen) - len(stop) + 1))
            if start >= 0:
                found.append((start + len(stop), start))
        if not found:
            return None
        end, start = min(found)
        return start, end


def beginning(text: str, of: str) -> int:
    """Length of the longest suffix of the text that begins `of`, and is not all of it."""
    return next((n for n in range(min(len(of) - 1, len(text)), 0, -1) if of.startswith(text[-n:])), 0)
