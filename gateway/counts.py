"""What only a gateway sees: requests, those that are refused, and how long their validation takes."""

from __future__ import annotations

import threading

from wire.metrics import DURATIONS
from wire.tally import Tally

GENERATING = frozenset(
    {
        "/",
        "/generate",
        "/generate_stream",
        "/invocations",
        "/jobs",
        "/v1/chat/completions",
        "/v1/completions",
        "/vertex",
    }
)
"""Where a POST asks for a generation."""

NAMES = {"template_error": "template"}
"""`error_type` → TGI's word for it in its metrics, where that is another."""


class Counts:
    """One process's; from any thread."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._lock = threading.Lock()
        self._validation = self.tally.histogram("tgi_request_validation_duration", DURATIONS)

    def answered(self, method: str, rule: str, status: int, error_type: str) -> None:
        """A request was answered, or its stream begun; `error_type` says why it was refused."""
        with self._lock:
            labels = f"route={method} {rule}", f"status={status}"
            self.tally.count("sagrada_gateway_requests_total", *labels)
            if method == "POST" and rule in GENERATING and status != 401:
                self.tally.count("tgi_request_count")
                if error_type:
                    self._failed(NAMES.get(error_type, error_type))

    def validated(self, seconds: float) -> None:
        """A request was found to be one."""
        with self._lock:
            self._validation.observe(seconds)

    def cancelled_unbegun(self) -> None:
        """A job was cancelled before any worker had begun it."""
        with self._lock:
            self._failed("dropped")

    def reconnected(self, times: int) -> None:
        """So often in all, the pub/sub connection was lost."""
        self.tally.update({"sagrada_gateway_reconnects_total": times})

    def _failed(self, err: str) -> None:
        self.tally.count("tgi_request_failure", f"err={err}")
