"""Every streaming route of TGI's, byte by byte: the same for huggingface_hub, for a browser and for a diff."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.gateway.client import Post, http
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until

ROUTES = ["/generate_stream", "/", "/invocations"]


def asked(inputs: str = "the cat", **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": {"max_new_tokens": 2, **parameters}, "stream": True}


def token(id: int, text: str, logprob: float = -0.5, special: str = "false") -> bytes:
    return f'{{"id":{id},"text":"{text}","logprob":{logprob},"special":{special}}}'.encode()


def event(
    index: int, shown: bytes, text: bytes = b"null", details: bytes = b"null", top: bytes = b""
) -> bytes:
    return (
        b'data: {"index":%d,"token":%b,%b"generated_text":%b,"details":%b}\n\n'
        % (index, shown, top, text, details)
    )  # fmt: skip


def details(reason: bytes, tokens: int, seed: bytes = b"null") -> bytes:
    return b'{"finish_reason":"%b","generated_tokens":%d,"seed":%b,"input_length":2}' % (reason, tokens, seed)


FIRST, SECOND = token(2, "w0 "), token(3, "w1 ")

TOP = b'"top_tokens":[%b,%b],'

TRANSCRIPTS: dict[str, tuple[dict[str, Any], bytes]] = {
    "plain": (
        asked(return_full_text=False),
        event(1, FIRST) + event(2, SECOND, b'"w0 w1 "'),
    ),
    "details": (
        asked(return_full_text=False, details=True),
        event(1, FIRST) + event(2, SECOND, b'"w0 w1 "', details(b"length", 2)),
    ),
    "sampled": (
        asked(return_full_text=False, details=True, do_sample=True, seed=18446744073709551615),
        event(1, FIRST) + event(2, SECOND, b'"w0 w1 "', details(b"length", 2, b"18446744073709551615")),
    ),
    "with the prompt": (
        asked("the cat\n", return_full_text=True),
        event(1, FIRST) + event(2, SECOND, b'"the cat\\nw0 w1 "'),
    ),
    "the likeliest": (
        asked(return_full_text=False, top_n_tokens=2),
        event(1, FIRST, top=TOP % (token(2, "the"), token(1, "</s>", -1.5, "true")))
        + event(2, SECOND, b'"w0 w1 "', top=TOP % (token(3, "cat"), token(1, "</s>", -1.5, "true"))),
    ),
    "the end of the sequence": (
        asked(max_new_tokens=9, return_full_text=False, details=True, min_new_tokens=1),
        event(1, FIRST) + event(2, token(1, "</s>", -0.1, "true"), b'"w0 "', details(b"eos_token", 2)),
    ),
    "a stop string": (
        asked(max_new_tokens=9, return_full_text=False, details=True, stop=["1"]),
        event(1, FIRST) + event(2, SECOND, b'"w0 w1 "', details(b"stop_sequence", 2)),
    ),
    "one token": (asked(max_new_tokens=1, return_full_text=False), event(1, FIRST, b'"w0 "')),
    "refused": (
        asked(top_p=1.0),
        b'data: {"error":"Input validation error: `top_p` must be > 0.0 and < 1.0","error_type":"validation"}\n\n',
    ),
    "failed at once": (
        asked("fail"),
        b'data: {"error":"Request failed during generation: the cat is not at home","error_type":"generation"}\n\n',
    ),
    "failed on the way": (
        asked("fail on", max_new_tokens=9),
        event(1, FIRST)
        + event(2, SECOND)
        + b'data: {"error":"Request failed during generation: the cat is not at home","error_type":"generation"}\n\n',
    ),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
@pytest.mark.parametrize("route", ROUTES)
def test_the_bytes_of_a_stream(url: str, worker: FakeWorker, route: str, name: str) -> None:
    body, transcript = TRANSCRIPTS[name]
    answer = http.post(url + route, json=body)
    assert answer.status_code == 200 and answer.content == transcript


@pytest.mark.parametrize(
    ("route", "prompt"), [("/generate_stream", ""), ("/", "the cat"), ("/invocations", "the cat")]
)
@pytest.mark.parametrize("parameters", [{"max_new_tokens": 1}, None])
def test_the_prompt_is_a_part_of_the_text_where_tgi_has_it_so(
    url: str, worker: FakeWorker, route: str, prompt: str, parameters: dict[str, Any] | None
) -> None:
    """By default on POST / and /invocations; a request without parameters is sampled all the same."""
    body = {"inputs": "the cat", "stream": True} | ({"parameters": parameters} if parameters else {})
    if parameters:
        last = event(1, FIRST, f'"{prompt}w0 "'.encode())
        assert http.post(url + route, json=body).content == last
    else:
        worker.step = 0.0  # as long as the model allows
        answer = http.post(url + route, json=body).content
        assert b'"generated_text":"%bw0 w1 ' % prompt.encode() in answer


def test_characters_are_sent_as_they_are(url: str, worker: FakeWorker) -> None:
    worker.word = 'é"\\\u0001\r\n😀'
    answer = http.post(url + "/generate_stream", json=asked(max_new_tokens=1)).content
    text = 'é\\"\\\\\\u0001\\r\\n😀0 '
    assert answer == event(1, token(2, text), f'"{text}"'.encode())


def test_the_headers_of_a_stream(url: str, worker: FakeWorker) -> None:
    for route in ROUTES:
        headers = http.post(url + route, json=asked("thé cat")).headers
        assert headers["content-type"] == "text/event-stream" and headers["cache-control"] == "no-cache"
        assert headers["x-accel-buffering"] == "no" and headers["x-compute-type"] == "cpu+optimized"
        assert headers["x-compute-characters"] == "7" and worker.ledger.record(headers["x-request-id"])


@pytest.mark.parametrize("route", ROUTES)
def test_a_cancelled_stream_says_so_and_ends(url: str, worker: FakeWorker, route: str) -> None:
    with Post(url, route, asked(max_new_tokens=1900)) as waiting:
        job_id = until(lambda: next(iter(worker.running), None), 30, "the job")
        assert http.delete(f"{url}/jobs/{job_id}").status_code == 200
        answer = waiting.read()
    last = b'data: {"error":"Incomplete generation stream","error_type":"incomplete_generation_stream"}\n\n'
    assert last in answer and b"[DONE]" not in answer


def test_silent_streams_are_kept_alive_in_time(url: str, worker: FakeWorker) -> None:
    """TGI's comment, before TGI's 15 seconds are over, while the jobs wait in the queue."""
    worker.hold()
    with ExitStack() as stack:
        streams = [http.stream("POST", url + route, json=asked(), timeout=15.5) for route in ROUTES]
        responses = [stack.enter_context(stream) for stream in streams]
        assert [next(response.iter_raw()) for response in responses] == [b":\n\n"] * len(ROUTES)
