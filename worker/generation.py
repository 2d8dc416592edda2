"""One claimed job in flight: its tokens as events, its text, and how it ends. No Redis, no engine."""

from __future__ import annotations

from collections.abc import Collection

from wire.commands import Entry, entry
from wire.events import Done, Failed, Terminal, Token
from wire.job import Job, Result, Usage
from wire.replies import Claimed, Poisoned
from wire.text import TextStream
from wire.tokenizer import Tokenizer


class Generation:
    """Keeps every token until the end: a Redis that lost writes gets them again from here."""

    def __init__(
        self, claimed: Claimed | Poisoned, job: Job, tokenizer: Tokenizer, eos_ids: Collection[int]
    ) -> None:
        """`job` is the claimed one with its prompt's ids. If earlier attempts completed it, `end` is there at once."""
        self.job = job
        self.attempt = claimed.attempt
        self.claim = claimed.claim
        self.deadline = claimed.deadline if isinstance(claimed, Claimed) else 0
        """Redis time in ms."""
        self.prompt = job.ids or ()
        self.ids = [token.id for token in claimed.tokens]
        self.entries: list[Entry] = [entry(token) for token in claimed.tokens]
        self.sent = len(self.entries)
        """Entries that the log holds."""
        self.end: Terminal | None = None
        self._text = TextStream(tokenizer, self.prompt, job.params, eos_ids)
        if self._text.replay(self.ids):
            self._complete()

    @property
    def unsent(self) -> list[Entry]:
        """Tokens that the log does not hold yet."""
        return self.entries[self.sent :]

    @property
    def unlogged(self) -> int:
        """How many tokens those are."""
        return len(self.entries) - self.sent

    @property
    def usage(self) -> Usage:
        """Tokens read and generated so far."""
        return Usage.of(len(self.prompt), self._text.count)

    def push(self, id: int, logprob: float) -> None:
        """The next token from the engine; what it ran ahead of the end is dropped."""
        if self.end:
            return
        piece = self._text.push(id)
        seq = len(self.entries)
        token = Token(seq=seq, index=seq, id=id, text=piece.text, logprob=logprob, special=piece.special)
        self.ids.append(id)
        self.entries.append(entry(token))
        if piece.finish:
            self._complete()

    def fail(self, error: str, error_type: str = "generation") -> None:
        """End as failed, unless it has ended."""
        if not self.end:
            self.end = Failed(seq=len(self.entries), error=error, error_type=error_type, usage=self.usage)

    @property
    def result(self) -> Result | None:
        """What a completed job produced."""
        if not isinstance(self.end, Done):
            return None
        end = self.end
        return Result(text=self._text.text, finish_reason=end.finish_reason, seed=end.seed, usage=end.usage)

    def _complete(self) -> None:
        assert self._text.finish, "the text has ended"
        self.end = Done(
            seq=len(self.entries),
            finish_reason=self._text.finish,
            seed=self.job.params.seed,
            usage=self.usage,
        )
