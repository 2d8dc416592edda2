"""What a worker counts: of jobs, whoever handed them in, and of its engine's steps. For the publisher's thread."""

from __future__ import annotations

import time
from collections.abc import Mapping

from wire.errors import JobExpired
from wire.events import Done, Failed
from wire.metrics import BETWEEN, DURATIONS, FIRST, ROWS, steps
from wire.tally import Histogram, Tally
from worker.assignment import Assignment, Broken, Verdict, Withdrawn
from worker.candidate import Candidate
from worker.generation import Generation
from worker.link import Ready, Work

SKIPPED = (0.0, 1.0, 2.0, 4.0)


class Meter:
    """One process's tallies: of the fleet, of its model, and of the model at this place."""

    def __init__(self, model: str, place: str) -> None:
        """`place`: the host, or the host and the card."""
        self.fleet, self.model, self.worker = Tally(), Tally(model), Tally(model, place)
        self._first = self.worker.histogram("sagrada_time_to_first_token_seconds", FIRST)
        self._between = self.worker.histogram("sagrada_inter_token_latency_seconds", BETWEEN)
        self._skipped = self.model.histogram("tgi_request_skipped_tokens", SKIPPED)
        self._next = self.model.histogram("tgi_batch_next_size", ROWS)
        self._choosing = self._seconds("batch_concat", "method=decode")
        self._phases = {method: Phase(self, f"method={method}") for method in ("prefill", "decode")}
        self._lengths: tuple[Histogram, Histogram, Histogram] | None = None

    def _seconds(self, what: str, *labels: str) -> Histogram:
        return self.model.histogram(f"tgi_{what}_duration", DURATIONS, *labels)

    # Jobs

    def open(self, ready: Ready) -> None:
        """The model's limits, by which lengths are counted."""
        inputs, total = steps(ready.max_input_tokens), steps(ready.max_total_tokens)
