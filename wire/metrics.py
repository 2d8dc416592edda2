"""Every counter and histogram of the fleet in one table: who counts it, in which buckets, and its sentence.

A *field* is how a value travels (wire/tally.py) and lies in Redis (wire/totals.py): the metric's name and its labels,
`name|method=prefill`; of a histogram `…|le=0.5` for each bucket that is not empty, and `…|sum`. `tgi_` are TGI's own
names, with its meanings, types and buckets, so that what was drawn for TGI draws us.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Literal

Kind = Literal["counter", "histogram"]
Scope = Literal["fleet", "model", "worker"]
"""Which labels a metric has besides its own: none; `model`; `model` and `worker`."""

Limit = Literal["", "max_input_tokens", "max_total_tokens"]

LIMITS: tuple[Limit, ...] = ("max_input_tokens", "max_total_tokens")
LIMIT = "limit"
"""The field that says by which limits lengths were counted, `limit|max_input_tokens=4095`: no metric, only a mark."""

DURATIONS = tuple(accumulate(repeat(1.5, 35), lambda bound, ratio: bound * ratio, initial=0.0001))[1:]
"""Seconds: TGI's 35, from 0.00015 to 145."""
ROWS = tuple(map(float, range(1, 1025)))
FIRST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0,
         15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0)  # fmt: skip
"""Seconds to a first token, which a queue may make minutes."""
BETWEEN = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0,
           2.5, 5.0, 10.0)  # fmt: skip
"""Seconds between tokens."""

SKIPPED = (0.0, 1.0, 2.0, 4.0)

METHODS = ("method=prefill", "method=decode")
PHASES = ("phase=prefill", "phase=decode", "phase=score")


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of series."""

    name: str
    help: str
    scope: Scope
    kind: Kind = "counter"
    labels: tuple[str, ...] = ("",)
    """Its label sets that are shown before anything is counted, as fields write them; "": it has none of its own."""
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets."""
    limit: Limit = ""
    """Instead: a hundred equal steps up to this limit of the model's."""


def steps(limit: int) -> tuple[float, ...]:
    """A hundred buckets up to a limit, by TGI's arithmetic."""
    return tuple(limit / 100.0 * (step + 1) for step in range(100))


def field(name: str, *labels: str) -> str:
    """The field of a metric under those labels, each `name=value`."""
    return "|".join((name, *filter(None, labels)))


def _seconds(name: str, help: str, labels: tuple[str, ...] = ("",)) -> Metric:
    return Metric(name, help, "model", "histogram", labels, DURATIONS)


def _errors(*kinds: str) -> tuple[str, ...]:
    return tuple(f"err={kind}" for kind in kinds)


FAILURE = "Requests refused (no model's label), failed, cancelled (dropped) or out of time (expired)."
ENDED = ("validation", "dropped", "expired")

TGI = (
    Metric("tgi_request_count", "Requests for generations, refused ones included.", "fleet"),
    Metric("tgi_request_success", "Generations that were completed.", "model"),
    # Once under each scope: what no worker has begun, refused requests above all, and what one has.
    Metric("tgi_request_failure", FAILURE, "fleet", labels=_errors("overloaded", "template", *ENDED)),
    Metric("tgi_request_failure", FAILURE, "model", labels=_errors("generation", *ENDED)),
    Metric(
        "tgi_request_validation_duration",
        "Seconds of parsing, tokenising and checking a request.",
        "fleet",
        "histogram",
        bounds=DURATIONS,
    ),
    _seconds("tgi_request_duration", "Seconds from submission to the end of a completed generation."),
    _seconds("tgi_request_queue_duration", "Seconds that a completed generation had waited to be begun."),
    _seconds("tgi_request_inference_duration", "Seconds from its begin to the end of a completed generation."),
    _seconds("tgi_request_mean_time_per_token_duration", "Those, by the tokens that were generated."),
    Metric(
        "tgi_request_input_length", "Prompt tokens of a job that was begun.", "model", "histogram",
        limit="max_input_tokens",
    ),
    Metric(
        "tgi_request_max_new_tokens", "Most new tokens that a job that was begun may have.", "model",
        "histogram", limit="max_total_tokens",
    ),
    Metric(
        "tgi_request_generated_tokens", "Tokens of a completed generation.", "model", "histogram",
        limit="max_total_tokens",
    ),
    Metric(
        "tgi_request_skipped_tokens", "Speculated tokens per generated one: none, nothing is speculated here.",
        "model", "histogram", bounds=SKIPPED,
    ),
    Metric("tgi_batch_inference_count", "Steps that were run.", "model", labels=METHODS),
    Metric("tgi_batch_inference_success", "Steps that gave what they should.", "model", labels=METHODS),
    Metric("tgi_batch_inference_failure", "Steps that raised.", "model", labels=METHODS),
    Metric(
        "tgi_batch_concat",
        "Prefill steps of sequences that join running ones.",
        "model",
        labels=("reason=chunking", "reason=backpressure", "reason=wait_exceeded"),
    ),
    Metric("tgi_batch_next_size", "Sequences of a prefill step.", "model", "histogram", bounds=ROWS),
    _seconds("tgi_batch_inference_duration", "Seconds from a step's launch until it is settled.", METHODS),
    _seconds(
        "tgi_batch_forward_duration",
        "Seconds of the device for a step: from its launch, or the end of the one before, to its tokens.",
        METHODS,
    ),
    _seconds("tgi_batch_decode_duration", "Seconds of making text of a step's tokens.", METHODS),
    _seconds("tgi_batch_filter_duration", "Seconds of settling a step: who goes on, who has ended.", METHODS),
    _seconds("tgi_batch_concat_duration", "Seconds of choosing a step's sequences.", ("method=decode",)),
)  # fmt: skip
"""TGI's counters and histograms."""


def _worker(name: str, help: str, labels: tuple[str, ...] = ("",)) -> Metric:
    return Metric(f"sagrada_{name}_total", help, "worker", labels=labels)


COUNTS: dict[str, Metric] = {
    "tokens": _worker("tokens", "Tokens generated."),
    "prompt_tokens": _worker(
        "prompt_tokens", "Tokens of prompts, and of what is resumed, that were taken in."
    ),
    "prefix_hit_tokens": _worker("prefix_hit_tokens", "Those that were found in the prefix cache."),
    "preemptions": _worker("preemptions", "Times that a sequence gave up its KV blocks for an older one."),
    "steps": _worker("steps", "Steps that were run."),
    "compilations": _worker(
        "compilations", "Programs built since warm-up; anything but 0 means that the plan was left."
    ),
    "starts": _worker("worker_starts", "Times that the worker's process was started."),
    "engine_restarts": _worker("engine_restarts", "Engines that were started in another's place."),
    "boot_renewed": _worker("leases_renewed", "Leases renewed in time."),
    "boot_lost": _worker("leases_lost", "Leases that ended while the worker lived: its jobs went to others."),
    "boot_adopted": _worker("messages_adopted", "Second deliveries of messages that the worker held."),
    "boot_reclaimed": _worker("messages_reclaimed", "Messages taken back after a lost lease or Redis."),
    "boot_elsewhere": _worker("messages_elsewhere", "Messages that another worker had by then."),
    "boot_resyncs": _worker("resyncs", "Times that the worker asked for all that it owns."),
    "boot_reaped": _worker("boots_reaped", "Boots of others that the worker declared dead."),
    "boot_restored": _worker("messages_restored", "Their messages, put back into queues."),
    "boot_refused": _worker("messages_refused", "Messages that could not be read."),
    "jobs_completed": _worker("jobs_completed", "Jobs told to Celery as completed."),
    "jobs_failed": _worker("jobs_failed", "Jobs told to Celery as failed."),
    "jobs_cancelled": _worker("jobs_cancelled", "Jobs told to Celery as revoked."),
    "jobs_elsewhere": _worker("jobs_elsewhere", "Jobs that another worker answers for."),
    "jobs_given_back": _worker("jobs_given_back", "Jobs given back to the queue."),
    "resumed": _worker("jobs_resumed", "Jobs that were begun elsewhere or before."),
    "gone": _worker("jobs_gone", "Messages whose job was deleted."),
    "reconciler_expired": _worker("reconciler_expired", "Jobs that the reconciler ended: their time was up."),
    "reconciler_abandoned": _worker(
        "reconciler_abandoned", "Jobs that the reconciler cancelled: their gateway was gone."
    ),
    "reconciler_requeued": _worker(
        "reconciler_requeued", "Jobs that the reconciler found in no queue and in no worker's hands."
    ),
}
"""By the names that the worker's parts count under."""

OURS = (
    Metric(
        "sagrada_time_to_first_token_seconds", "Seconds from submission to the first token.", "worker",
        "histogram", bounds=FIRST,
    ),
    Metric(
        "sagrada_inter_token_latency_seconds", "Seconds between two tokens of one text.", "worker",
        "histogram", bounds=BETWEEN,
    ),
    _worker("step_rows", "Tokens of prefill and score steps, rows of decode steps.", PHASES),
    _worker("step_padding_rows", "What the steps' shapes had beyond those.", PHASES),
    _worker("step_blocks", "Context blocks of the steps, as their shapes count them.", PHASES),
    _worker("step_padding_blocks", "What the steps' shapes had beyond those.", PHASES),
    *COUNTS.values(),
    Metric("sagrada_gateway_requests_total", "HTTP requests by route and status.", "fleet", labels=()),
    Metric("sagrada_gateway_reconnects_total", "Pub/sub connections of gateways that were lost.", "fleet"),
)  # fmt: skip
"""What TGI does not count."""

METRICS = (*TGI, *OURS)
