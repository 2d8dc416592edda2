"""Bytes of jobs, events and results. msgpack only: nothing that is read here can run code."""

from __future__ import annotations

import msgspec

from wire.errors import NewerWireVersion
from wire.events import Event
from wire.job import Job, Result

WIRE_VERSION = 2
"""The newest that is read. What is written is marked with the oldest version whose readers understand it: new fields
that an older one may ignore raise nothing, and a job that asks for nothing new is still of version 1."""


class _Versioned(msgspec.Struct, frozen=True):
    v: int
    job: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_envelope = msgspec.msgpack.Decoder(_Versioned)
_job = msgspec.msgpack.Decoder(Job)
_event: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
_result = msgspec.msgpack.Decoder(Result)


def encode_job(job: Job) -> bytes:
    """The job in its versioned envelope."""
    return _encoder.encode(_Versioned(version_of(job), msgspec.Raw(_encoder.encode(job))))


def version_of(job: Job) -> int:
    """The oldest wire version whose readers would not misread the job."""
    params = job.params
    constrained = params.grammar or params.stop_token_ids or params.watermark
    reported = params.candidates > 1 or params.top_n or params.prompt_logprobs
    return 2 if constrained or reported or not job.add_special_tokens else 1


def decode_job(data: bytes) -> Job:
    """The job; NewerWireVersion if a newer Sagrada wrote it, msgspec.ValidationError if it is no job."""
    envelope = _envelope.decode(data)
    if envelope.v > WIRE_VERSION:
        raise NewerWireVersion(
            f"this job was written in wire version {envelope.v}, this process reads up to "
            f"{WIRE_VERSION}: upgrade it, or leave the job for a newer worker"
        )
    return _job.decode(envelope.job)


def encode_event(event: Event) -> bytes:
    """The map that the log stores and the channel carries."""
    return _encoder.encode(event)


def decode_event(data: bytes) -> Event:
    """The event; unknown fields are ignored, so that newer writers can add some."""
    return _event.decode(data)


def encode_result(result: Result) -> bytes:
    """The result as it stands in the job's record."""
    return _encoder.encode(result)


def decode_result(data: bytes) -> Result:
    """The result out of a record."""
    return _result.decode(data)
