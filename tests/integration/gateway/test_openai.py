"""OpenAI's routes: what its clients see, byte for byte where it is streamed."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from tests.integration.gateway.client import Post, http
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until
from wire.keys import OPEN

USER = {"role": "user", "content": "the cat"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALLS = [
    "Well ", "<tool", '_call>\n{"name": "look", "arg', 'uments": {"at', '": 1}', "}\n</tool_call>",
    '\n<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>',
]  # fmt: skip


def chat(url: str, **asked: Any) -> httpx.Response:
    return http.post(url + "/v1/chat/completions", json={"messages": [USER], "max_tokens": 3, **asked})


def complete(url: str, **asked: Any) -> httpx.Response:
    return http.post(url + "/v1/completions", json={"prompt": "the cat", "max_tokens": 3, **asked})


def transcript(answer: httpx.Response) -> str:
    """A stream's bytes, with what differs from run to run replaced; it is the same in all of its chunks."""
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/event-stream", answer.text
    heads = set(re.findall(r'"id":"(?:chatcmpl|cmpl)-([0-9a-f]{32})"', answer.text))
    assert heads <= {answer.headers["x-request-id"]}
    text = re.sub(r"(chatcmpl|cmpl)-[0-9a-f]{32}", r"\1-ID", answer.text)
    text = re.sub(r'"created":[1-9]\d{9}', '"created":0', text)
    text = re.sub(r'"system_fingerprint":"sagrada-[^"]+"', '"system_fingerprint":"FP"', text)
    return re.sub(r"call_[0-9a-f]{24}", "call_ID", text)


def chunk(choices: str, usage: str = "", kind: str = "chat") -> str:
    """An event of a transcript."""
    names = {"chat": ("chatcmpl", "chat.completion.chunk"), "text": ("cmpl", "text_completion")}
    prefix, name = names[kind]
    return (
        f'data: {{"id":"{prefix}-ID","object":"{name}","created":0,"model":"fake","system_fingerprint":"FP",'
        f'"choices":[{choices}]{usage}}}\n\n'
    )


def delta(change: str, index: int = 0, reason: str = "null", logprobs: str = "null") -> str:
    """The one choice of a chat's chunk."""
    return f'{{"index":{index},"delta":{{{change}}},"logprobs":{logprobs},"finish_reason":{reason}}}'


def text(said: str, index: int = 0, reason: str = "null") -> str:
    """An event of a completion."""
    return chunk(f'{{"index":{index},"text":"{said}","logprobs":null,"finish_reason":{reason}}}', kind="text")


ROLE = '"role":"assistant","content":""'
DONE = "data: [DONE]\n\n"


def test_a_chat(url: str, worker: FakeWorker) -> None:
    answer = chat(url, temperature=0)
    body = answer.json()
    assert body["id"] == "chatcmpl-" + answer.headers["x-request-id"] and body["created"] > 1.6e9
    assert body["object"] == "chat.completion" and body["model"] == "fake"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "w0 w1 w2 ", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    assert answer.headers["x-prompt-tokens"] == "4" and answer.headers["x-generated-tokens"] == "3"
    ended = chat(url, max_tokens=None, max_completion_tokens=50, min_tokens=2).json()
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["choices"][0]["message"]["content"] == "w0 w1 "


def test_a_chat_of_several_texts(url: str, worker: FakeWorker) -> None:
    body = chat(url, n=2).json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["w0.0 w0.1 w0.2 ", "w1.0 w1.1 "]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["prompt_tokens"] == 4


def test_a_streamed_chat(url: str, worker: FakeWorker) -> None:
    plain = "".join(
        chunk(delta(change)) for change in (ROLE, '"content":"w0 "', '"content":"w1 "', '"content":"w2 "')
    )
    last = chunk(delta("", reason='"length"'))
    assert transcript(chat(url, stream=True)) == plain + last + DONE

    told = transcript(chat(url, stream=True, max_tokens=1, stream_options={"include_usage": True}))
    null, usage = ',"usage":null', ',"usage":{"prompt_tokens":4,"completion_tokens":1,"total_tokens":5}'
    changes = (delta(ROLE), delta('"content":"w0 "'), delta("", reason='"length"'))
    assert told == "".join(chunk(change, null) for change in changes) + chunk("", usage) + DONE


def test_streamed_texts_are_told_apart(url: str, worker: FakeWorker) -> None:
    said = transcript(chat(url, stream=True, n=2, max_tokens=2))
    assert said == "".join(
        [
            chunk(delta(ROLE)),
            chunk(delta('"content":"w0.0 "')),
            chunk(delta('"content":"w0.1 "')),
            chunk(delta(ROLE, 1)),
            chunk(delta('"content":"w1.0 "', 1)),
            chunk(delta("", 0, '"stop"')),
            chunk(delta("", 1, '"stop"')),
            DONE,
        ]
    )


def test_a_stop_string_is_cut_off(url: str, worker: FakeWorker) -> None:
    asked: dict[str, Any] = {"stop": "1", "max_tokens": 50}
    changes = [ROLE, '"content":"w0 "', '"content":"w"']
    said = "".join(chunk(delta(change)) for change in changes) + chunk(delta("", reason='"stop"')) + DONE
    assert transcript(chat(url, stream=True, **asked)) == said
    assert chat(url, **asked).json()["choices"][0]["message"]["content"] == "w0 w"
    kept = chat(url, include_stop_str_in_output=True, stop=["x", "1"], max_tokens=50).json()
    assert kept["choices"][0]["message"]["content"] == "w0 w1 "


def test_log_probabilities(url: str, worker: FakeWorker) -> None:
    asked = {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    the = {"token": "the", "logprob": -0.5, "bytes": [*b"the"]}
    top = [the, {"token": "</s>", "logprob": -1.5, "bytes": [*b"</s>"]}]
    scored = {"content": [the | {"top_logprobs": top}], "refusal": None}
    assert chat(url, **asked).json()["choices"][0]["logprobs"] == scored
    written = json.dumps(scored, separators=(",", ":"))
    said = [delta(ROLE), delta('"content":"w0 "', logprobs=written), delta("", reason='"length"')]
    assert transcript(chat(url, stream=True, **asked)) == "".join(map(chunk, said)) + DONE
    ended = chat(url, logprobs=True, max_tokens=9, min_tokens=1).json()["choices"][0]
    assert len(ended["logprobs"]["content"]) == 1, "the end of the sequence is no part of the answer"


def test_tool_calls(url: str, worker: FakeWorker) -> None:
    worker.pieces = CALLS
    body = chat(url, tools=[TOOL], max_tokens=20).json()
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "Well "
    calls = choice["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "look", "arguments": '{"at": 1}'},
        {"name": "look", "arguments": "{}"},
    ]
    assert len({call["id"] for call in calls}) == 2 and all(call["type"] == "function" for call in calls)
    untold = chat(url, tools=[TOOL], tool_choice="none", max_tokens=20).json()["choices"][0]
    assert untold["message"]["content"] == "".join(CALLS) and "tool_calls" not in untold["message"]


def test_streamed_tool_calls(url: str, worker: FakeWorker) -> None:
    def call(index: int, arguments: str, name: str = "") -> str:
        head = '"id":"call_ID","type":"function",' if name else ""
        name = f'"name":"{name}",' if name else ""
        return f'"tool_calls":[{{"index":{index},{head}"function":{{{name}"arguments":{json.dumps(arguments)}}}}}]'

    worker.pieces = CALLS
    said = [
        delta(ROLE),
        delta('"content":"Well "'),
        delta(call(0, "", "look")),
        delta(call(0, '{"at')),
        delta(call(0, '": 1}')),
        delta(call(1, "", "look")),
        delta(call(1, "{}")),
        delta("", reason='"tool_calls"'),
    ]
    streamed = chat(url, tools=[TOOL], max_tokens=20, stream=True)
    assert transcript(streamed) == "".join(map(chunk, said)) + DONE
    worker.pieces = CALLS[1:6]
    first = '"role":"assistant","content":null,' + call(0, "", "look")
    assert transcript(chat(url, tools=[TOOL], max_tokens=20, stream=True)).startswith(chunk(delta(first)))


def test_what_the_model_is_offered(url: str, worker: FakeWorker) -> None:
    worker.hold()
    with Post(url, "/v1/chat/completions", {"messages": [USER], "tools": [TOOL], "tool_choice": "required"}):
        job_id = until(lambda: next(iter(worker.queue.peek()), None), 30, "the job")
        worker.takes.set()
        job = until(lambda: (now := worker.running.get(job_id)) and now.claimed.job, 30, "the job")
    assert job.params.grammar is not None and job.params.do_sample and not job.params.include_stop
    assert job.ids == tuple(
        worker.tokenizer.encode(f"{json.dumps([TOOL])} <tool_call> x x\nuser the cat\nassistant")
    )


def test_completions(url: str, worker: FakeWorker) -> None:
    answer = complete(url, max_tokens=2)
    body = answer.json()
    assert body["id"] == "cmpl-" + answer.headers["x-request-id"] and body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "w0 w1 ", "logprobs": None, "finish_reason": "length"}]
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    several = complete(url, prompt=["the", "the cat sat"], n=2, max_tokens=2).json()
    assert [choice["text"] for choice in several["choices"]] == ["w0.0 w0.1 ", "w1.0 "] * 2
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert several["usage"]["prompt_tokens"] == 4
    for ids in ([2, 3], [[2, 3]]):
        assert complete(url, prompt=ids, echo=True).json()["choices"][0]["text"] == "the catw0 w1 w2 "


def test_streamed_completions(url: str, worker: FakeWorker) -> None:
    said = transcript(complete(url, stream=True, max_tokens=2, echo=True))
    words = ["the cat", "w0 ", "w1 "]
    assert said == "".join(map(text, words)) + text("", reason='"length"') + DONE
    usage = ',"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}'
    both = transcript(
        complete(
            url, prompt=["the", "cat"], stream=True, max_tokens=1, stream_options={"include_usage": True}
        )
    )
    events = both.split("\n\n")
    assert sorted(event for event in events if '"index":0' in event) == sorted(
        event.replace('"index":1', '"index":0') for event in events if '"index":1' in event
    )
    assert both.endswith(chunk("", usage, "text") + DONE)


def test_legacy_log_probabilities(url: str, worker: FakeWorker) -> None:
    asked = {"logprobs": 1, "echo": True, "max_tokens": 1}
    scored = {
        "tokens": ["the", "cat", "the"],
        "token_logprobs": [None, -0.25, -0.5],
        "top_logprobs": [None, {"cat": -0.25}, {"the": -0.5}],
        "text_offset": [0, 3, 7],
    }
    choice = complete(url, **asked).json()["choices"][0]
    assert choice["logprobs"] == scored and choice["text"] == "the catw0 "
    chosen = complete(url, logprobs=0, max_tokens=2).json()["choices"][0]["logprobs"]
    assert chosen["top_logprobs"] is None and chosen["text_offset"] == [0, 3]
    nothing = complete(url, **asked | {"max_tokens": 0}).json()
    assert nothing["choices"][0]["text"] == "the cat" and nothing["usage"]["completion_tokens"] == 0
    assert nothing["choices"][0]["logprobs"]["tokens"] == ["the", "cat"]


def test_a_failed_generation(url: str, worker: FakeWorker) -> None:
    sentence = "Request failed during generation: the cat is not at home"
    error = {"message": sentence, "type": "server_error", "param": None, "code": "generation"}
    failing = [{"role": "user", "content": "fail"}]
    answer = chat(url, messages=failing)
    assert answer.status_code == 424 and answer.json() == {"error": error}
    written = json.dumps({"error": error | {"http_status_code": 424}}, separators=(",", ":"))
    halfway = [{"role": "user", "content": "fail on"}]
    said = [delta(ROLE), delta('"content":"w0 "'), delta('"content":"w1 "')]
    streamed = transcript(chat(url, messages=halfway, stream=True, max_tokens=9))
    assert streamed == "".join(map(chunk, said)) + f"data: {written}\n\n" + DONE


def test_one_failing_prompt_fails_the_request_and_cancels_the_others(url: str, worker: FakeWorker) -> None:
    answer = complete(url, prompt=["the cat", "fail"], max_tokens=1900)
    assert answer.status_code == 424 and answer.json()["error"]["code"] == "generation"
    until(lambda: not worker.running and worker.fenced, 30, "the other one's end")


def test_prompts_are_taken_together_or_not_at_all(url: str, worker: FakeWorker) -> None:
    worker.hold()
    answer = complete(url, prompt=["the cat", ""])
    assert answer.status_code == 400 and answer.json()["error"]["message"] == "`prompt` cannot be empty"
    until(lambda: not worker.queue.size() and not worker.redis.zcard(OPEN), 30, "the first one's end")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_all_of_its_jobs(url: str, worker: FakeWorker, stream: bool) -> None:
    asked = {"prompt": ["the", "cat"], "max_tokens": 1900, "stream": stream}
    with Post(url, "/v1/completions", asked):
        jobs = until(lambda: [*worker.running] if len(worker.running) == 2 else None, 30, "both jobs")
    records = until(
        lambda: (
            all((r := worker.ledger.record(job_id)) and r.terminal for job_id in jobs)
            and [worker.ledger.record(job_id) for job_id in jobs]
        ),
        30,
        "the cancels",
    )
    assert [record.state for record in records if record] == ["cancelled"] * 2


def test_a_deleted_job(url: str, worker: FakeWorker) -> None:
    with Post(
        url, "/v1/chat/completions", {"messages": [USER], "max_tokens": 1900, "stream": True}
    ) as waiting:
        job_id = until(lambda: next(iter(worker.running), None), 30, "the job")
        assert http.post(f"{url}/jobs/{job_id}/cancel").status_code == 200
        answer = waiting.read()
    assert b'"code":"incomplete_generation_stream","http_status_code":500}}\n\n' in answer
    assert answer.rstrip(b"\r\n0").endswith(b"data: [DONE]")


LONG = {"messages": [{"role": "user", "content": "cat " * 65}]}
REFUSED: list[tuple[str, dict[str, Any], int, str | None, str | None, str]] = [
    ("chat", {"messages": []}, 400, "messages", "empty_array", "array too short"),
    ("chat", {"messages": None}, 400, "messages", "invalid_type", "expected array"),
    ("chat", {"messages": [{}]}, 400, "messages[0].role", "missing_required_parameter", "Missing required"),
    ("chat", {"temperature": -1}, 400, "temperature", "decimal_below_min_value", ">= 0"),
    ("chat", {"temperature": "1"}, 400, "temperature", "invalid_type", "expected number, got string"),
    ("chat", {"top_p": 1.5}, 400, "top_p", "decimal_above_max_value", "<= 1"),
    ("chat", {"n": 0}, 400, "n", "integer_below_min_value", ">= 1"),
    ("chat", {"n": 129}, 400, "n", "integer_above_max_value", "<= 128"),
    ("chat", {"presence_penalty": 3}, 400, "presence_penalty", "decimal_above_max_value", "<= 2"),
    ("chat", {"stop": ["a"] * 17}, 400, "stop", "array_above_max_length", "<= 16"),
    ("chat", {"stop": [""]}, 400, "stop", "invalid_value", "`stop` sequences"),
    ("chat", {"logit_bias": {"a": 1}}, 400, "logit_bias", "invalid_value", "token ids"),
    ("chat", {"logit_bias": {"1": 101}}, 400, "logit_bias", "invalid_value", "<= 100"),
    ("chat", {"top_logprobs": 2}, 400, "top_logprobs", "invalid_value", "only allowed when `logprobs`"),
    ("chat", {"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "integer_above_max_value", "<= 20"),
    ("chat", {"stream_options": {}}, 400, "stream_options", "invalid_value", "only allowed when `stream`"),
    ("chat", {"max_tokens": 0}, 400, "max_tokens", "invalid_value", "`max_tokens` must be strictly positive"),
    ("chat", {"min_tokens": 9}, 400, "min_tokens", "invalid_value", "`min_tokens` must be <= `max_tokens`"),
    ("chat", LONG, 400, "messages", "context_length_exceeded", "`messages` must have"),
    ("chat", {"max_tokens": 2045}, 400, "messages", "context_length_exceeded",
     "This model's maximum context length is 2048 tokens. However, you requested 2049 tokens (4 in the messages, "
     "2045 in the completion). Please reduce the length of the messages or completion."),
    ("chat", {"model": "nobody"}, 404, "model", "model_not_found", "no worker serves"),
    ("chat", {"tool_choice": "required"}, 400, "tool_choice", "invalid_value", "only allowed when `tools`"),
    ("chat", {"tools": [TOOL], "tool_choice": "f"}, 400, "tool_choice", "invalid_value", "names no tool"),
    ("chat", {"tools": [TOOL, TOOL]}, 400, "tools", "invalid_value", "two tools of one name"),
    ("chat", {"tools": [TOOL], "response_format": {"type": "json_object"}}, 400, "response_format",
     "invalid_value", "Tool error: Grammar and tools are mutually exclusive"),
    ("chat", {"response_format": {"type": "xml"}}, 400, "response_format.type", "invalid_value", "'xml'"),
    ("chat", {"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema",
     "missing_required_parameter", "Missing required"),
    ("chat", {"response_format": {"type": "json", "value": {}}}, 400, "response_format", "invalid_value",
     "Invalid `response_format`: Grammar must have a 'properties' field"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
     400, "messages[0].content[0]", "invalid_value", "reads text alone, and no 'image_url'"),
    ("chat", {"chat_template_kwargs": {"messages": []}}, 400, "chat_template_kwargs", "invalid_value", "set"),
    ("chat", {"continue_final_message": True, "add_generation_prompt": True}, 400, "continue_final_message",
     "invalid_value", "cannot both"),
    ("text", {"prompt": []}, 400, "prompt", "empty_array", "empty array"),
    ("text", {"prompt": ["a", 1]}, 400, "prompt", "invalid_type", "cannot be mixed"),
    ("text", {"prompt": [1, [1]]}, 400, "prompt", "invalid_type", "cannot be mixed"),
    ("text", {"prompt": [11]}, 400, "prompt", "invalid_value", "below 11"),
    ("text", {"prompt": ""}, 400, "prompt", "invalid_value", "`prompt` cannot be empty"),
    ("text", {"prompt": ["a"] * 5}, 400, "prompt", "array_above_max_length", "maximum allowed batch size of 4"),
    ("text", {"suffix": "a"}, 400, "suffix", "unsupported_parameter", "Suffix is not supported"),
    ("text", {"logprobs": 6}, 400, "logprobs", "integer_above_max_value", "<= 5"),
    ("text", {"best_of": 1, "n": 2}, 400, "best_of", "invalid_value", "must be >= `n`"),
    ("text", {"best_of": 2, "stream": True}, 400, "best_of", "invalid_value", "cannot be streamed"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "asked", "status", "param", "code", "words"), REFUSED)
def test_what_is_refused(
    url: str,
    worker: FakeWorker,
    route: str,
    asked: dict[str, Any],
    status: int,
    param: str | None,
    code: str | None,
    words: str,
    stream: bool,
) -> None:
    """With a status of its own, streamed or not, before anything is queued."""
    worker.hold()
    streamed = stream and "stream_options" not in asked  # those are allowed in a stream
    answer = (chat if route == "chat" else complete)(url, **{"stream": streamed, **asked})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code), error
    assert error["type"] == "invalid_request_error" and words in error["message"]
    until(lambda: not worker.queue.size() and not [*worker.redis.scan_iter("sagrada:{*")], 30, "nothing left")


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, None),
        ("POST", "/v1/completions", b'{"prompt": "\xff"}', 400, None),
        ("POST", "/v1/chat/completions", b"[]", 400, "invalid_type"),
        ("POST", "/v1/completions", b"null", 400, "invalid_type"),
        (
            "POST",
            "/v1/chat/completions",
            b'{"messages": "' + b"a" * 300_000 + b'"}',
            413,
            "request_entity_too_large",
        ),
        ("GET", "/v1/chat/completions", None, 405, "method_not_allowed"),
        ("POST", "/v1/models", b"{}", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("GET", "/v1/models/nobody", None, 404, "model_not_found"),
    ],
)
def test_every_error_has_openais_shape(
    url: str, worker: FakeWorker, method: str, path: str, content: bytes | None, status: int, code: str | None
) -> None:
    answer = http.request(method, url + path, content=content, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code) and error["message"]
    assert sorted(error) == ["code", "message", "param", "type"] and error["type"] == "invalid_request_error"
    wrong = http.post(url + "/v1/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert wrong.status_code == 415 and wrong.json()["error"]["code"] == "unsupported_media_type"
    elsewhere = http.get(url + "/nothing").json()
    assert elsewhere["error_type"] == "not_found"


def test_models(url: str, worker: FakeWorker) -> None:
    (model,) = http.get(url + "/v1/models").json()["data"]
    assert model == {"id": "fake", "object": "model", "created": 1, "owned_by": "fake", "max_model_len": 2048}
    assert http.get(url + "/v1/models/fake").json() == model
    assert chat(url, model="tgi").json()["model"] == "fake"


def test_chat_tokenize(url: str, worker: FakeWorker) -> None:
    body = http.post(url + "/chat_tokenize", json={"messages": [USER]}).json()
    assert body["templated_text"] == "user the cat\nassistant"
    assert [token["text"] for token in body["tokenize_response"]] == ["user", "the", "cat", "assistant"]
    assert body["tokenize_response"][1] == {"id": 2, "text": "the", "start": 5, "stop": 8}
    refused = http.post(url + "/chat_tokenize", json={"messages": []})
    assert refused.status_code == 422 and refused.json()["error_type"] == "validation"


def test_invocations_take_both(url: str, worker: FakeWorker) -> None:
    asked = {"messages": [USER], "max_tokens": 1}
    assert http.post(url + "/invocations", json=asked).json()["object"] == "chat.completion"
    streamed = http.post(url + "/invocations", json={"prompt": "the", "max_tokens": 1, "stream": True})
    assert transcript(streamed) == text("w0 ") + text("", reason='"length"') + DONE


def test_tgis_habits(strict_url: str, worker: FakeWorker) -> None:
    answer = chat(strict_url, model="whatever", stop=["w1"], max_tokens=9)
    assert answer.json()["choices"][0]["finish_reason"] == "stop_sequence"
    assert answer.json()["model"] == "whatever" and chat(strict_url, model="tgi").json()["model"] == "fake"
    streamed = transcript(complete(strict_url, stream=True, max_tokens=9, min_tokens=1))
    assert streamed == text("w0 ", reason='""') + text("", reason='"eos_token"') + DONE
    bad = chat(strict_url, temperature=-1)
    assert bad.status_code == 422 and bad.json()["error_type"] == "validation"
    failed = chat(strict_url, messages=[{"role": "user", "content": "fail"}], stream=True)
    sentence = "Request failed during generation: the cat is not at home"
    assert failed.text == f'data: {{"error":{{"message":"{sentence}","http_status_code":422}}}}\n\n' + DONE
