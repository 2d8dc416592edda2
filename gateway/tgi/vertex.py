"""/vertex: several prompts in one request, each a job of its own; they run at once."""

from __future__ import annotations

import msgspec

from gateway.generation import GONE_AWAY, failure
from gateway.group import Gathered
from gateway.stream import JSON
from gateway.tgi.shapes import Predictions
from wire.events import Terminal


class Batch(Gathered):
    """All texts, in the order of the request."""

    def _send(self) -> None:
        texts = [generation.text for generation in self.generations]
        self._answer(200, msgspec.json.encode(Predictions(predictions=texts)))

    def _say(self, end: Terminal) -> None:
        status, body = failure(end)
        if end is GONE_AWAY:
            self._answer(503, body, {"Retry-After": "1"})
        else:
            self._answer(status, body)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        ids = ", ".join(generation.accepted.job.id for generation in self.generations)
        self.exchange.answer(status, JSON | {"x-request-id": ids} | (headers or {}), body)
