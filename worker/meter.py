"""What a worker counts: of jobs, whoever handed them in, and of its engine's steps. For the publisher's thread."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from wire.errors import JobExpired
from wire.events import Done, Failed
from wire.job import Job
from wire.metrics import BETWEEN, DURATIONS, FIRST, LIMIT, LIMITS, ROWS, SKIPPED, field, steps
from wire.tally import Histogram, Tally
from worker.assignment import Broken, Verdict, Withdrawn
from worker.generation import Generation
from worker.link import Ready, Work

METHODS = {"prefill": "prefill", "score": "prefill", "decode": "decode"}
"""Phase of a step → TGI's word."""


class Meter:
    """One process's tallies: of the fleet, of its model, and of the model at this place."""

    def __init__(self, model: str, place: str) -> None:
        """`place`: the host, or the host and the card."""
        self.fleet, self.model, self.worker = Tally(), Tally(model), Tally(model, place)
        self._first = self.worker.histogram("sagrada_time_to_first_token_seconds", FIRST)
        self._between = self.worker.histogram("sagrada_inter_token_latency_seconds", BETWEEN)
        self._skipped = self.model.histogram("tgi_request_skipped_tokens", SKIPPED)
        self._next_size = self.model.histogram("tgi_batch_next_size", ROWS)
        self._choosing = self._seconds("batch_concat", "method=decode")
        self._methods = {method: Method(self.model, method) for method in set(METHODS.values())}
        self._method = self._methods["decode"]

    def _seconds(self, what: str, *labels: str) -> Histogram:
        return self.model.histogram(f"tgi_{what}_duration", DURATIONS, *labels)

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """All of them."""
        return self.fleet, self.model, self.worker

    # Jobs

    def open(self, ready: Ready) -> None:
        """The model's limits, in hundredths of which lengths are counted."""
        self._inputs, self._totals = steps(ready.max_input_tokens), steps(ready.max_total_tokens)
        for limit in LIMITS:
            self.model.update({field(LIMIT, f"{limit}={getattr(ready, limit)}"): 1})

    def begun(self, job: Job, of_a_producer: bool) -> None:
        """A job was begun for the first time; what comes through a gateway has been counted as a request there."""
        if of_a_producer:
            self.fleet.count("tgi_request_count")
        self._length("input_length", self._inputs, len(job.ids or ()))
        self._length("max_new_tokens", self._totals, job.params.max_new_tokens)

    def _length(self, what: str, bounds: Sequence[float], tokens: int) -> None:
        self.model.histogram(f"tgi_request_{what}", bounds).observe(tokens)

    def refused(self) -> None:
        """A plain producer's request cannot be read."""
        self.fleet.count("tgi_request_count")
        self._failed("validation")

    def finished(self, generation: Generation) -> None:
        """The ledger has the end that this process gave it."""
        match generation.end:
            case Failed(error_type=kind):
                self._failed("validation" if kind == "validation" else "generation")
            case Done(usage=usage):
                now, tokens = monotonic(), usage.completion_tokens
                inference = now - generation.begun
                self.model.count("tgi_request_success")
                self._seconds("request").observe(now - generation.submitted)
                self._seconds("request_queue").observe(generation.begun - generation.submitted)
                self._seconds("request_inference").observe(inference)
                self._seconds("request_mean_time_per_token").observe(inference / max(1, tokens))
                self._length("generated_tokens", self._totals, tokens)

    def settled(self, verdict: Verdict) -> None:
        """Somebody else ended a job that was running here."""
        match verdict:
            case Withdrawn():
                self._failed("dropped")
            case Broken(error=JobExpired()):
                self._failed("expired")

    def expired_unbegun(self) -> None:
        """A job's time was up when it was to be begun."""
        self.fleet.count("tgi_request_failure", "err=expired")

    def _failed(self, err: str) -> None:
        self.model.count("tgi_request_failure", f"err={err}")

    # Tokens

    def token(self, generation: Generation, choice: int, now: float) -> None:
        """A choice is about to get a token, at monotonic `now`."""
        candidate = generation.candidates[choice]
        if candidate.heard:
            self._between.observe(now - candidate.heard)
        elif generation.silent:
            self._first.observe(now - generation.submitted)
        candidate.heard, generation.silent = now, False

    def told(self, tokens: int, seconds: float) -> None:
        """A step's tokens have been made into text."""
        self._skipped.observe(0.0, tokens)
        self._method.decode.observe(seconds)

    # Steps

    def worked(self, works: Sequence[Work]) -> None:
        """How the engine's last steps went."""
        for work in works:
            self._method = self._methods[METHODS[work.phase]]
            self._method.count(work)
            if not work.raised:
                self._worked(work)

    def _worked(self, work: Work) -> None:
        self._choosing.observe(work.choosing)
        if work.phase != "decode":
            self._next_size.observe(work.sequences)
        if work.joining:
            self.model.count("tgi_batch_concat", "reason=chunking")
        phase = f"phase={work.phase}"
        for name, used, padding in zip(("rows", "blocks"), work.used, work.padding, strict=True):
            self.worker.count(f"sagrada_step_{name}_total", phase, more=used)
            self.worker.count(f"sagrada_step_padding_{name}_total", phase, more=padding)


class Method:
    """What TGI counts of prefill and of decode."""

    def __init__(self, tally: Tally, method: str) -> None:
        self._tally, self._label = tally, f"method={method}"
        self.decode = self._seconds("decode")
        """Of making text."""
        self._forward, self._filter = self._seconds("forward"), self._seconds("filter")
        self._inference = self._seconds("inference")

    def _seconds(self, what: str) -> Histogram:
        return self._tally.histogram(f"tgi_batch_{what}_duration", DURATIONS, self._label)

    def count(self, work: Work) -> None:
        """One more step."""
        self._tally.count("tgi_batch_inference_count", self._label)
        self._tally.count(f"tgi_batch_inference_{'failure' if work.raised else 'success'}", self._label)
        if not work.raised:
            self._forward.observe(work.device)
            self._filter.observe(work.settling)
            self._inference.observe(work.whole)
