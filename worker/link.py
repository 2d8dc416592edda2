"""What crosses between a worker's Celery parent and its engine child: msgpack frames over a socket pair.

A frame is a 4-byte big-endian length and one msgpack map. Parent to engine: Admit, Abort, Stop.
Engine to parent: Progress, Ready, LoadFailed, Stepped, SequenceFailed, Stopped.
"""

from __future__ import annotations

import msgspec

from wire.job import SamplingParams


class Admit(msgspec.Struct, frozen=True, tag="admit", kw_only=True):
    """Run this sequence. `output` holds the tokens that earlier attempts delivered: they are prefilled, not repeated."""

    seq: int
    """The parent's number for it; unique for the life of the child."""
    prompt: list[int]
    output: list[int]
    params: SamplingParams
    choice: int = 0


class Abort(msgspec.Struct, frozen=True, tag="abort", kw_only=True):
    """Drop this sequence at the next step boundary; nothing is said of it afterwards."""

    seq: int


class Stop(msgspec.Struct, frozen=True, tag="stop", kw_only=True):
    """Close the device and exit with 0."""


class Progress(msgspec.Struct, frozen=True, tag="progress", kw_only=True):
    """Loading or warming up: `done` of `total` in this stage."""

    stage: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready", kw_only=True):
    """The model is loaded, warmed and sealed."""

    model_id: str
    revision: str
    folder: str
    """Where the tokenizer files lie."""
    device: str
    dtype: str
    vocab_size: int
    eos_ids: list[int]
    slots: int
    block_size: int
    num_blocks: int
    max_input_tokens: int
    max_total_tokens: int
    plan_hash: str
    buckets: int
    warm_up_seconds: float


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed", kw_only=True):
    """The model cannot be served; the child exits with 1 after this frame."""

    error: str


class Output(msgspec.Struct, frozen=True, array_like=True):
    """One sequence's token of one step."""

    seq: int
    id: int
    logprob: float


class Stepped(msgspec.Struct, frozen=True, tag="stepped", kw_only=True):
    """What one step gave. A sequence that reached its end (length, end-of-sequence) has left the engine after it."""

    outputs: list[Output]
    left: list[int]
    """The sequences that have left: they hold no slot and no block any more."""
    free_slots: int
    free_blocks: int
    steps: int
    compilations: int


class SequenceFailed(msgspec.Struct, frozen=True, tag="sequence_failed", kw_only=True):
    """This sequence could not go on; it has left the engine. The others run on."""

    seq: int
    error: str
    error_type: str = "generation"


class Stopped(msgspec.Struct, frozen=True, tag="stopped", kw_only=True):
    """The answer to Stop: the last frame."""


ToEngine = Admit | Abort | Stop
FromEngine = Progress | Ready | LoadFailed | Stepped | SequenceFailed | Stopped
