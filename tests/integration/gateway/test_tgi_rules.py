"""Every rule of TGI's validation, in its order and its words, on every route of its that generates."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.integration.gateway.client import Post, http
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until

Fields = dict[str, Any]

WHOLE = ["/", "/generate", "/invocations", "/vertex"]
STREAMED = ["/", "/generate_stream", "/invocations"]

TOTAL: tuple[Fields, str] = (
    {"max_new_tokens": 2047},
    "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2 `inputs` tokens and 2047 `max_new_tokens`",
)
BEST_OF: tuple[Fields, str] = ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3")
NO_SAMPLING: tuple[Fields, str] = ({"best_of": 2}, "you must use sampling when `best_of` is > 1")
SEEDED: tuple[Fields, str] = (
    {"best_of": 2, "do_sample": True, "seed": 1},
    "`seed` must not be set when `best_of` > 1",
)

RULES: list[tuple[Fields, str]] = [
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -0.5}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 64. Given: 0"),
    ({"truncate": 65}, "`truncate` must be strictly positive and less than 64. Given: 65"),
    (
        {"inputs": "cat " * 65, "max_new_tokens": 1984},
        "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 65 `inputs` tokens and 1984 `max_new_tokens`",
    ),
    ({"inputs": "cat " * 65}, "`inputs` must have less than 64 tokens. Given: 65"),
]
"""What is wrong with a request whose prompt is "the cat" otherwise, in the order in which TGI looks at it."""

GRAMMARS: list[tuple[Any, str]] = [
    (
        {"type": "json", "value": {"type": "string"}},
        "grammar is not valid: Grammar must have a 'properties' field",
    ),
    ({"type": "json_object", "value": "{}"}, "grammar is not valid: Grammar must have a 'properties' field"),
    (
        {"type": "json_schema", "value": {"schema": {"type": "object"}}},
        "grammar is not valid: Grammar must have a 'properties' field",
    ),
    ({"type": "json", "value": "{"}, "grammar is not valid: "),
    ({"type": "json", "value": 7}, "grammar is not valid: "),
    ({"type": "json_schema", "value": {"name": "x"}}, "grammar is not valid: "),
    ({"type": "regex", "value": 7}, "grammar is not valid: "),
    ({"type": "xml", "value": "x"}, "grammar is not valid: "),
]
"""Refused before the prompt is counted, where TGI counts first. What a worker alone can tell, it tells as `validation`,
too."""

IN_STREAMS: list[tuple[Fields, str]] = [
    ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
    ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
    (
        {"decoder_input_details": True},
        "`decoder_input_details` == true is not supported when streaming tokens",
    ),
]

ACCEPTED: list[Fields] = [
    {},
    {"best_of": 0},
    {"best_of": 1, "seed": 1},
    {"best_of": 2, "do_sample": True},
    {"best_of": 2, "top_k": 1},
    {"temperature": 1e-3, "repetition_penalty": 1e-3, "frequency_penalty": -2.0},
    {"frequency_penalty": 2.0, "top_p": 0.999, "typical_p": 0.001, "top_k": 1},
    {"stop": list("abcd"), "top_n_tokens": 5, "seed": 2**64 - 1},
    {"truncate": 64},
    {"inputs": "cat " * 64},
    {"inputs": "cat " * 65, "truncate": 64},
    {"watermark": False, "adapter_id": None, "grammar": None, "unknown": 1},
    {"details": True, "decoder_input_details": True, "return_full_text": False},
]


def body(fields: Fields) -> Fields:
    """A request of two tokens that is wrong in these fields."""
    parameters = {"max_new_tokens": 2} | fields
    return {"inputs": parameters.pop("inputs", "the cat"), "parameters": parameters}


def post(url: str, route: str, asked: Fields) -> httpx.Response:
    return http.post(url + route, json={"instances": [asked]} if route == "/vertex" else asked)


def refusals(url: str, fields: Fields, whole: list[str] = WHOLE, streamed: list[str] = STREAMED) -> set[str]:
    """What the routes say, in one shape: as a 422, or as the only event of a stream."""
    said: set[str] = set()
    for route in whole:
        answer = post(url, route, body(fields))
        assert answer.status_code == 422, (route, answer.text)
        assert answer.headers["content-type"] == "application/json"
        said.add(answer.text)
    for route in streamed:
        answer = http.post(url + route, json=body(fields) | {"stream": True})
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/event-stream"
        event = answer.text.removeprefix("data: ").removesuffix("\n\n")
        assert answer.text == f"data: {event}\n\n"
        said.add(event)
    return said


def refusal(sentence: str) -> str:
    said = {"error": f"Input validation error: {sentence}", "error_type": "validation"}
    return json.dumps(said, separators=(",", ":"))


@pytest.fixture
def idle(worker: FakeWorker) -> FakeWorker:
    """A worker that takes nothing: what was let through waits."""
    worker.hold()
    return worker


@pytest.mark.parametrize(("fields", "sentence"), [*RULES, TOTAL])
def test_each_rule_on_each_route(url: str, idle: FakeWorker, fields: Fields, sentence: str) -> None:
    assert refusals(url, fields) == {refusal(sentence)}
    assert idle.queue.size() == 0 and not list(idle.redis.scan_iter("sagrada:{*"))


@pytest.mark.parametrize(("fields", "sentence"), [BEST_OF, NO_SAMPLING, SEEDED])
def test_each_rule_of_the_best_of_several(url: str, idle: FakeWorker, fields: Fields, sentence: str) -> None:
    whole = [route for route in WHOLE if route != "/vertex" or sentence != NO_SAMPLING[1]]
    assert refusals(url, fields, whole, []) == {refusal(sentence)}


@pytest.mark.parametrize(("fields", "sentence"), IN_STREAMS)
def test_each_rule_of_a_stream(url: str, idle: FakeWorker, fields: Fields, sentence: str) -> None:
    assert refusals(url, fields, []) == {refusal(sentence)}
    assert refusals(url, {"temperature": 0} | fields, []) == {refusal(sentence)}, "before all others"


@pytest.mark.parametrize(("grammar", "sentence"), GRAMMARS)
def test_each_rule_of_a_grammar(url: str, idle: FakeWorker, grammar: Any, sentence: str) -> None:
    (said,) = refusals(url, {"grammar": grammar})
    assert said.startswith(refusal(sentence).removesuffix('","error_type":"validation"}'))
    assert json.loads(said)["error_type"] == "validation"


def in_order() -> list[tuple[Fields, Fields, str]]:
    """Two neighbours of RULES in one request, and what TGI says first."""
    chain = [BEST_OF, *RULES[:13], SEEDED, *RULES[13:]]
    pairs = [(NO_SAMPLING, ({"repetition_penalty": 0}, "")), *pairwise(chain)]
    return [(first, second, sentence) for (first, sentence), (second, _) in pairs]


@pytest.mark.parametrize(("first", "second", "sentence"), in_order())
def test_of_two_faults_tgis_first_is_named(
    url: str, idle: FakeWorker, first: Fields, second: Fields, sentence: str
) -> None:
    assert refusals(url, {**second, **first}, ["/generate"], []) == {refusal(sentence)}


@pytest.mark.parametrize("fields", ACCEPTED)
def test_what_is_within_the_rules_is_generated(url: str, worker: FakeWorker, fields: Fields) -> None:
    for route in WHOLE:
        answer = post(url, route, body(fields))
        assert answer.status_code == 200, (route, answer.text)


@pytest.mark.parametrize(
    ("route", "parameters", "sampled"),
    [
        ("/generate", None, True),
        ("/generate", {}, False),
        ("/generate_stream", None, True),
        ("/", None, True),
        ("/", {}, False),
        ("/invocations", None, True),
        ("/invocations", {}, False),
        ("/vertex", None, True),
        ("/vertex", {}, True),
        ("/vertex", {"do_sample": False}, False),
    ],
)
def test_without_parameters_it_is_sampled_and_with_empty_ones_it_is_not(
    url: str, worker: FakeWorker, route: str, parameters: Fields | None, sampled: bool
) -> None:
    """TGI's trap. /vertex samples either way, unless it is told not to."""
    worker.pause()
    asked = {"inputs": "the cat"} | ({} if parameters is None else {"parameters": parameters})
    with Post(url, route, {"instances": [asked]} if route == "/vertex" else asked):
        (running,) = until(lambda: list(worker.running.values()), 30, "the job")
    assert running.claimed.job.params.do_sample is sampled
    assert running.claimed.job.params.max_new_tokens == 2046, "all that fits"


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"inputs":"\xff"}', "application/json", 400),
        (b'{"inputs":"a"}', "text/plain", 415),
        (b'{"inputs":"a"}', "", 415),
        (b'{"inputs":5}', "application/json", 422),
        (b"{}", "application/json", 422),
        (b"[]", "application/json", 422),
        (b'{"inputs":"a","parameters":{"temperature":"hot"}}', "application/json", 422),
        (b'{"inputs":"a","parameters":{"max_new_tokens":-1}}', "application/json", 422),
        (b'{"inputs":"a","parameters":null}', "application/json", 422),
        (b'{"inputs":"' + b"a" * 200_000 + b'"}', "application/json", 413),
    ],
)
def test_what_cannot_be_read_has_tgis_status_streamed_or_not(
    url: str, idle: FakeWorker, content: bytes, content_type: str, status: int
) -> None:
    for route in {*WHOLE, *STREAMED, "/tokenize"}:
        sent = b'{"instances":[%b]}' % content if route == "/vertex" and b"inputs" in content else content
        answer = http.post(url + route, content=sent, headers={"Content-Type": content_type})
        assert answer.status_code == status, (route, answer.text)
        assert sorted(answer.json()) == ["error", "error_type"]
    assert idle.queue.size() == 0
