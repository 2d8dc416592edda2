"""What is written can be read, by the next version too, and by the previous one where that is safe."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest

from wire.codec import (
    WIRE_VERSION,
    decode_event,
    decode_job,
    decode_result,
    encode_event,
    encode_job,
    encode_result,
    version_of,
)
from wire.errors import NewerWireVersion
from wire.events import STATE_OF, Cancelled, Done, Event, Expired, Failed, Resumed, Started, Token
from wire.grammar import JsonObject
from wire.job import TERMINAL, Job, Result, SamplingParams, Scored, Usage

PARAMS = SamplingParams(
    max_new_tokens=3, seed=2**64 - 1, stop=("«",), logit_bias=((7, -100.0), (9, 0.5)), top_n=5
)
JOB = Job(id="j", model="m", params=PARAMS, ids=(1, 2**31))
USAGE = Usage.of(3, 4)
EVENTS: list[Event] = [
    Token(seq=0, index=0, id=1, text="é", logprob=-0.5, special=False),
    Token(seq=1, index=1, id=2, text="", logprob=None, special=True, choice=1),
    Token(
        seq=0,
        index=0,
        id=1,
        text="é",
        logprob=-0.5,
        special=False,
        top=(Scored(1, "é", -0.5), Scored(3, "e", -1.0)),
        prompt=(Scored(1, "<s>", None), Scored(2, "caf", -2.5)),
    ),
    Started(attempt=1, seq=0),
    Resumed(attempt=2, seq=2),
    Done(seq=2, finish_reason="eos_token", seed=2**64 - 1, usage=USAGE),
    Failed(seq=2, error="why", usage=USAGE),
    Cancelled(seq=2, usage=USAGE),
    Expired(seq=2, usage=USAGE),
]


def test_a_job_survives_the_journey() -> None:
    assert decode_job(encode_job(JOB)) == JOB


@pytest.mark.parametrize(
    "new",
    [
        {"grammar": JsonObject()},
        {"n": 2},
        {"best_of": 2},
        {"stop_token_ids": (7,)},
        {"watermark": True},
        {"top_n": 1},
        {"prompt_logprobs": True},
    ],
)
def test_what_an_older_worker_would_ignore_is_left_for_a_newer_one(new: dict[str, Any]) -> None:
    old = msgspec.structs.replace(PARAMS, top_n=0)
    job = msgspec.structs.replace(JOB, params=msgspec.structs.replace(old, **new))
    assert (version_of(msgspec.structs.replace(JOB, params=old)), version_of(job)) == (1, 2)
    assert msgpack.unpackb(encode_job(job))["v"] == 2 and decode_job(encode_job(job)) == job


def test_a_newer_job_is_left_alone_even_if_its_parts_are_unknown() -> None:
    newer = msgpack.packb({"v": WIRE_VERSION + 1, "job": {"anything": [1, 2]}})
    with pytest.raises(NewerWireVersion, match="newer worker"):
        decode_job(newer)


def test_fields_that_a_newer_writer_added_are_passed_over() -> None:
    plain = msgpack.unpackb(encode_job(JOB))
    plain["job"]["invented"] = {"x": 1}
    assert decode_job(msgpack.packb(plain)) == JOB
    event = msgpack.unpackb(encode_event(EVENTS[0])) | {"invented": 1}
    assert decode_event(msgpack.packb(event)) == EVENTS[0]


def test_a_record_of_before_a_parameter_existed_has_its_neutral_value() -> None:
    plain = msgpack.unpackb(encode_job(JOB))
    for name in ("logit_bias", "top_n"):
        del plain["job"]["params"][name]
    older = decode_job(msgpack.packb(plain)).params
    assert older == msgspec.structs.replace(PARAMS, logit_bias=(), top_n=0)


@pytest.mark.parametrize(
    "garbage", [b"", b"\xc1", b"\x80", msgpack.packb({"v": 1, "job": {}}), msgpack.packb([1])]
)
def test_what_is_no_job_is_refused(garbage: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_job(garbage)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_one_plain_map_that_any_msgpack_reads(event: Event) -> None:
    plain = msgpack.unpackb(encode_event(event))
    assert plain["type"] == type(event).__name__.lower()
    assert plain["seq"] == event.seq
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_the_order_of_a_maps_keys_means_nothing(event: Event) -> None:
    """cmsgpack inside Redis writes them in an order of its own."""
    plain = msgpack.unpackb(encode_event(event))
    assert decode_event(msgpack.packb(dict(reversed(plain.items())))) == event


def test_every_terminal_state_has_its_event() -> None:
    assert set(STATE_OF.values()) == TERMINAL


def test_a_result_survives_the_journey() -> None:
    result = Result(text="é", finish_reason="stop_sequence", seed=2**64 - 1, usage=USAGE)
    assert decode_result(encode_result(result)) == result
