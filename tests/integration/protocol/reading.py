"""One client's stream: the real reader, with the bad luck that its connection has."""

from __future__ import annotations

from collections.abc import Iterable

from redis.exceptions import RedisError

from tests.integration.protocol.server import Client
from wire.events import Event, Resumed, Token
from wire.ledger import read_many
from wire.reader import NEED_LOG, Reader


def by_choice(tokens: Iterable[Token], count: int) -> list[list[int]]:
    """What each choice has said; an AssertionError if its tokens are not in order."""
    said: list[list[int]] = [[] for _ in range(count)]
    for token in tokens:
        assert token.index == len(said[token.choice]), f"choice {token.choice} has no hole: {token}"
        said[token.choice].append(token.id)
    return said


def begin(said: list[list[int]], texts: list[list[int]]) -> bool:
    """Whether that is how those texts begin."""
    return all(text[: len(each)] == each for each, text in zip(said, texts, strict=True))


class Reading:
    """It subscribes with its first look at the log, and misses what is published while it is deaf."""

    def __init__(self) -> None:
        self.deaf = True
        self.got: list[Event] = []
        self._reader = Reader()
        self._waiting: list[Event] | None = None
        """What was heard since the log is being read."""

    @property
    def tokens(self) -> list[Token]:
        return [event for event in self.got if isinstance(event, Token)]

    def disconnected(self) -> None:
        """The next look begins a new connection, which knows only the last seq it was given."""
        self.deaf = True
        if not self._reader.ended:
            self._reader = Reader(self._reader.after)

    def hear(self, event: Event) -> None:
        """A message of the channel."""
        if self.deaf:
            return
        if self._waiting is not None:
            self._waiting.append(event)
        elif (out := self._reader.offer(event)) is not NEED_LOG:
            self.got += out

    def catch_up(self, redis: Client, job_id: str) -> None:
        """Subscribe, then read the log, then follow."""
        self.deaf, self._waiting = False, []
        try:
            events = read_many(redis, {job_id: self._reader.after})[job_id]
        except RedisError:
            self._waiting = None
            self.disconnected()
            return
        self.got += self._reader.from_log(events)
        heard, self._waiting = self._waiting or [], None
        for event in heard:
            self.hear(event)

    def check(self, texts: list[list[int]], ended: bool = False) -> None:
        """What was delivered is the beginning of each choice's one true text, then at most one end."""
        news = [event for event in self.got if not isinstance(event, Resumed)]
        seqs = [event.seq for event in self.tokens]
        assert seqs == list(range(len(seqs))), f"a reader sees every token once, in order: {seqs}"
        said = by_choice(self.tokens, len(texts))
        assert begin(said, texts), f"a reader sees the one true text of each choice: {said}"
        assert all(isinstance(event, Token) for event in news[:-1]), f"the end is the last: {news}"
        # Not always the event: one whose seq is the last token's is taken for an end that was heard already.
        assert not ended or self._reader.ended, f"a reader hears the end: {news}"
