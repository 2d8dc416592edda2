"""The answer to one request, written by whoever has it, whenever it comes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from flask import Response

MAX_UNSENT = 1 << 20
"""Bytes a slow client may owe us besides the largest piece, which may be a whole log, before it is dropped; it resumes
by Last-Event-ID."""

Headers = Mapping[str, str]


class Exchange(Protocol):
    """The answer to one request, written by whoever has it, whenever it comes."""

    def attend(self, on_gone: Callable[[], None]) -> None:
        """Have `on_gone` called, once, if the client leaves or is dropped before the answer is complete."""

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response; nothing may follow."""

    def begin(self, headers: Headers) -> None:
        """Send the head of a 200 whose body is streamed."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body; never blocks."""

    def end(self) -> None:
        """The body is complete."""


def nobody() -> None:
    """Nobody to tell."""


class Blocking:
    """The same exchange where the socket cannot be taken: the request's thread waits and yields the pieces."""

    def __init__(self) -> None:
        self._on_gone: Callable[[], None] = nobody
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._head: queue.SimpleQueue[Response] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unsent, self._most = 0, MAX_UNSENT
        self._ended = False

    def attend(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` if the response is closed before its end; a leaver is noticed at the next piece."""
        self._on_gone = on_gone

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Hand the waiting view its response."""
        self._ended = True
        self._head.put(Response(body, status, dict(headers)))

    def begin(self, headers: Headers) -> None:
        """Hand the waiting view a response that goes on."""
        self._head.put(Response(self._body(), 200, dict(headers), direct_passthrough=True))

    def write(self, data: bytes) -> None:
        """Queue a piece; what a client owes is bounded here too."""
        with self._lock:
            self._unsent += len(data)
            self._most = max(self._most, MAX_UNSENT + len(data))
            dropped = self._unsent > self._most
        self._pieces.put(None if dropped else data)

    def end(self) -> None:
        """End the body."""
        self._ended = True
        self._pieces.put(None)

    def wait(self) -> Response:
        """The response, once its head is known."""
        return self._head.get()

    def _body(self) -> Iterator[bytes]:
        try:
            while (piece := self._pieces.get()) is not None:
                with self._lock:
                    self._unsent -= len(piece)
                yield piece
        finally:
            if not self._ended:
                self._on_gone()
