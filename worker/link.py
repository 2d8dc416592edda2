"""What crosses between a worker's Celery parent and its engine child: msgpack frames over a socket pair.

A frame is a 4-byte big-endian length and one msgpack map. Parent to engine: Admit, Allow, Abort, Stop.
Engine to parent: Progress, Ready, LoadFailed, Stepped, PromptScored, SequenceFailed, Stopped.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from models.plan import Phase
from wire.job import SamplingParams
from worker.sequence import NO_BOUND

MAX_FRAME = 64 << 20
"""Bytes. A longer frame means that the stream is broken."""

_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 18


class Admit(msgspec.Struct, frozen=True, tag="admit", kw_only=True):
    """Run this sequence. `output`: the tokens that earlier attempts delivered; they are prefilled, not repeated."""

    seq: int
    """The parent's number for it; unique for the life of the child."""
    prompt: list[int]
    output: list[int]
    params: SamplingParams
    siblings: tuple[tuple[int, int], ...] = ()
    """(seq, seed) of others that differ in nothing else; while there is no output, one prefill serves all of them."""
    salt: str = ""
    """Whose prefixes it may share: sequences of different salts share none."""
    prompt_logprobs: bool = False
    """Answer with PromptScored when its prompt has run."""
    allowed: int = NO_BOUND
    """Output tokens, `output` included, that it may have before an Allow says more; then it waits."""


class Allow(msgspec.Struct, frozen=True, tag="allow", kw_only=True):
    """This sequence may go on to `allowed` output tokens in all: the log has taken enough of those before."""

    seq: int
    allowed: int


class Abort(msgspec.Struct, frozen=True, tag="abort", kw_only=True):
    """Drop this sequence at the next step boundary; nothing is said of it afterwards."""

    seq: int


class Stop(msgspec.Struct, frozen=True, tag="stop", kw_only=True):
    """Close the device and exit with 0."""


class Progress(msgspec.Struct, frozen=True, tag="progress", kw_only=True):
    """Loading or warming up: `done` of `total` in this stage. After Ready: of the buckets that are still to come."""

    stage: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready", kw_only=True):
    """The model is loaded, and warm enough to serve."""

    model_id: str
    revision: str
    folder: str
    """Where the tokenizer files lie."""
    device: str
    dtype: str
    vocab_size: int
    eos_ids: list[int]
    watermark: bool = False
    """Whether sequences may ask for one."""
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
    top: tuple[tuple[int, float], ...] = ()
    """(id, logprob) of the likeliest tokens, as many as the job's `top_n`, likeliest first."""


class Work(msgspec.Struct, frozen=True, array_like=True):
    """How one step went; times in seconds."""

    phase: Phase
    sequences: int
    used: tuple[int, int]
    """What it was to run: tokens, or rows of a decode, and context blocks."""
    padding: tuple[int, int]
    """What its shape had beyond."""
    joining: bool
    """Whether it prefilled while others were decoding."""
    choosing: float
    """Until the scheduler had given it."""
    device: float
    """Until its tokens were there, from its launch or, if that was later, from the end of the step before."""
    settling: float
    """Until the scheduler had taken them in."""
    whole: float
    """From its launch until then."""
    raised: bool = False
    """It gave nothing; of its times none is known."""


class Stepped(msgspec.Struct, frozen=True, tag="stepped", kw_only=True):
    """What one step gave. A sequence that reached its end (length, end-of-sequence) has left the engine after it."""

    outputs: list[Output]
    left: list[int]
    """The sequences that ended: nothing more is said of them. A step launched ahead may still hold their blocks."""
    free_slots: int
    free_blocks: int
    steps: int
    """Since the engine began, as the next four."""
    compilations: int
    prompt_tokens: int = 0
    prefix_hit_tokens: int = 0
    """Those of them that were found in the prefix cache."""
    preemptions: int = 0
    works: list[Work] = []
    """How it went, and those before it that gave no token."""


class PromptScored(msgspec.Struct, frozen=True, tag="prompt_scored", kw_only=True):
    """The log-probabilities of a prompt's tokens, from its second on."""

    seq: int
    logprobs: list[float]


class SequenceFailed(msgspec.Struct, frozen=True, tag="sequence_failed", kw_only=True):
    """This sequence could not go on; it has left the engine. The others run on."""

    seq: int
    error: str
    error_type: str = "generation"


class Stopped(msgspec.Struct, frozen=True, tag="stopped", kw_only=True):
    """The answer to Stop: the last frame."""


ToEngine = Admit | Allow | Abort | Stop
FromEngine = Progress | Ready | LoadFailed | Stepped | PromptScored | SequenceFailed | Stopped
Frame = TypeVar("Frame", ToEngine, FromEngine)

_encoder = msgspec.msgpack.Encoder()


class LinkClosed(ConnectionError):
    """The other end of the link is gone."""


class Link(Generic[Frame]):
    """One end of the link, for one thread; it never blocks except in `wait`. `Frame`: what arrives here."""

    def __init__(self, sock: socket.socket, arriving: msgspec.msgpack.Decoder[Frame]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._decoder: msgspec.msgpack.Decoder[Frame] = arriving
        self._in, self._out = bytearray(), bytearray()
        self._poll = select.poll()

    @classmethod
    def of_parent(cls, sock: socket.socket) -> Link[FromEngine]:
        """The worker's end."""
        return Link(sock, msgspec.msgpack.Decoder(FromEngine))

    @classmethod
    def of_engine(cls, sock: socket.socket) -> Link[ToEngine]:
        """The engine's end."""
        return Link(sock, msgspec.msgpack.Decoder(ToEngine))

    def fileno(self) -> int:
        """For a selector: readable, and writable while there is a backlog."""
        return self._socket.fileno()

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet; `flush` when it is writable again."""
        return len(self._out)

    def send(self, frame: ToEngine | FromEngine) -> None:
        """Queue the frame and write what the socket takes now; LinkClosed."""
        body = _encoder.encode(frame)
        self._out += _LENGTH.pack(len(body))
        self._out += body
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes now of the backlog; LinkClosed."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise LinkClosed(f"the other end of the engine link is gone: {error}") from error

    def receive(self) -> list[Frame]:
        """All frames that have arrived, without waiting; LinkClosed when all are read and the other end is gone."""
        closed = self._fill()
        frames = list(self._frames())
        if closed and not frames:
            raise LinkClosed("the other end of the engine link is gone")
        return frames

    def wait(self, seconds: float) -> None:
        """Until there is something to read, or to write while there is a backlog, at most `seconds`."""
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
        self._poll.poll(max(0, seconds * 1000))

    def close(self) -> None:
        """Close the socket; the other end gets LinkClosed after what was written."""
        self._socket.close()

    def _fill(self) -> bool:
        """Read what is there; True at the end of the stream."""
        try:
            while data := self._socket.recv(_CHUNK):
                self._in += data
                if len(data) < _CHUNK:
                    return False
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        return True

    def _frames(self) -> Iterator[Frame]:
        while len(self._in) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._in)[0]
            if end > MAX_FRAME:
                raise LinkClosed(f"the engine link announces a frame of {end} bytes: its stream is broken")
            if len(self._in) < end:
                return
            body = bytes(self._in[_LENGTH.size : end])
            del self._in[:end]
            yield self._decoder.decode(body)
