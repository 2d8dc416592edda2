"""/vertex: several prompts in one request, each a job of its own; they run at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from gateway.exchange import Exchange
from gateway.generation import GONE_AWAY, Generation, failure
from gateway.service import Gateway
from gateway.stream import JSON
from gateway.tgi.answers import Gathering
from gateway.tgi.shapes import Predictions
from wire.events import Done, Terminal


class Batch:
    """The jobs of one request over one exchange. What ends one of them without a text ends all."""

    def __init__(self, gateway: Gateway, exchange: Exchange, generations: Sequence[Generation]) -> None:
        self._gateway, self._exchange = gateway, exchange
        self._generations = generations
        self._parts = [Part(self, gateway, exchange, generation) for generation in generations]
        self._left = len(generations)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Listen to all of them, then to the client: one that has left already closes what is open."""
        for part in self._parts:
            self._gateway.hub.open(part)
        self._exchange.attend(self.cancel)

    def cancel(self) -> None:
        """Nobody wants the others any more."""
        for part in self._parts:
            if not part.reader.ended:
                part.gone()

    def succeeded(self) -> None:
        """One more has its text; with the last, answer."""
        with self._lock:
            self._left -= 1
            complete = self._left == 0
        if complete:
            self._gateway.chore(self._send)

    def failed(self, end: Terminal) -> None:
        """Answer for all."""
        status, body = failure(end)
        self._answer(status, body)
        self.cancel()

    def abandon(self) -> None:
        """The gateway goes: nobody would hear the end."""
        self._answer(503, failure(GONE_AWAY)[1], {"Retry-After": "1"})
        self.cancel()

    def _send(self) -> None:
        texts = [generation.text for generation in self._generations]
        self._answer(200, msgspec.json.encode(Predictions(predictions=texts)))

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        ids = ", ".join(generation.accepted.job.id for generation in self._generations)
        self._exchange.answer(status, JSON | {"x-request-id": ids} | (headers or {}), body)


class Part(Gathering):
    """One of them."""

    def __init__(self, batch: Batch, gateway: Gateway, exchange: Exchange, generation: Generation) -> None:
        super().__init__(gateway, exchange, generation)
        self._batch = batch

    def succeeded(self, done: Done) -> None:
        """It has its text."""
        self._batch.succeeded()
        self.gateway.hub.close(self)  # last: a drain ends when the hub is empty and the chores are done

    def failed(self, end: Terminal) -> None:
        """So have the others."""
        self._batch.failed(end)
        self.gateway.hub.close(self)

    def abandon(self) -> None:
        """So will the others."""
        self._batch.abandon()
