"""The commands as a person and a script see them: output, errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sagrada.__main__ import main
from tests.unit.sagrada.stub import Answer, Request, done, gateway, job, sse, token

FAILED = {"type": "failed", "seq": 1, "error": "the step raised", "error_type": "generation", "usage": {}}

SEVERAL = {
    "text": "Once", "finish_reason": "length", "seed": 0,
    "choices": [
        {"text": text, "finish_reason": "length", "seed": seed, "tokens": 1}
        for seed, text in enumerate(("Once", "Twice"))
    ],
}  # fmt: skip


def sagrada(*args: str, **options: Any) -> Result:
    return CliRunner().invoke(main, args, **options)


@pytest.mark.parametrize("command", ["up", "generate", "submit", "status", "stream", "cancel", "keys"])
def test_every_command_explains_itself(command: str) -> None:
    ran = sagrada(command, "--help")
    assert ran.exit_code == 0
    assert f"sagrada {command}" in ran.output.replace("main", "sagrada")
    assert len(ran.output.splitlines()) >= 8


def test_plan_starts_the_models_room() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "sagrada", "plan", "--graphs", "3", "--json"], capture_output=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)["buckets"]) == 3


def test_plan_without_the_worker_s_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagrada.__main__.find_spec", lambda name: None)
    ran = sagrada("plan")
    assert ran.exit_code == 1
    assert "pip install 'sagrada[worker]'" in ran.output


def test_generate_streams_the_text() -> None:
    def answers(request: Request) -> Answer:
        return (
            Answer(202, job()) if request.method == "POST" else Answer(text=sse(token(0), token(1), done(2)))
        )

    with gateway(answers) as stub:
        ran = sagrada(
            "generate", "Hello", "--max-new-tokens", "2", "--stop", "a", "--stop", "b", "--url", stub.url
        )
    assert ran.exit_code == 0, ran.output
    assert ran.stdout == "t0 t1 \n"
    assert ran.stderr.startswith("2 tokens in ") and "ended by length" in ran.stderr
    assert stub.requests[0].body == {
        "inputs": "Hello",
        "parameters": {"max_new_tokens": 2, "stop": ["a", "b"]},
    }


def test_a_dash_reads_the_prompt_from_the_standard_input() -> None:
    with gateway(lambda request: Answer(202, job())) as stub:
        ran = sagrada("submit", "-", input="a long\nprompt", env={"SAGRADA_URL": stub.url})
    assert (ran.exit_code, ran.stdout) == (0, "j1\n")
    assert stub.requests[0].body["inputs"] == "a long\nprompt"


def test_a_job_that_fails_is_a_failing_command() -> None:
    def answers(request: Request) -> Answer:
        return Answer(202, job()) if request.method == "POST" else Answer(text=sse(token(0), FAILED))

    with gateway(answers) as stub:
        ran = sagrada("generate", "Hello", "--url", stub.url)
    assert ran.exit_code == 1
    assert "Error: The job failed: the step raised" in ran.stderr


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(422, {"error": "Input validation error: too long", "error_type": "validation"}), 1),
        (Answer(503, {"error": "the model is loading", "error_type": "model_unavailable"}), 3),
        (Answer(429, {"error": "the queue is full", "error_type": "overloaded"}), 3),
        (Answer(drop=True), 3),
    ],
)
def test_refusals_have_a_sentence_and_a_code(answer: Answer, code: int) -> None:
    with gateway(lambda request: answer) as stub:
        ran = sagrada("submit", "Hello", "--url", stub.url)
    assert ran.exit_code == code
    assert ran.stderr.startswith("Error: " + (answer.body["error"] if answer.body else "No gateway answers"))


@pytest.mark.parametrize(
    ("state", "output", "code"),
    [
        (job("queued", queue_position=2), "queued, number 2 in the queue\n", 0),
        (
            job("queued", queue_position=9, estimated_wait=12.4),
            "queued, number 9 in the queue, about 12 s to wait\n",
            0,
        ),
        (job("in_progress"), "in_progress\n", 0),
        (job("completed", result={"text": "Once", "finish_reason": "length", "seed": 0}), "Once\n", 0),
        (job("completed", result=SEVERAL), "Once\n\nTwice\n", 0),
        (
            job("failed", error={"message": "out of memory", "type": "generation"}),
            "failed: out of memory\n",
            1,
        ),
        (job("cancelled"), "cancelled\n", 1),
    ],
)
def test_status(state: dict[str, Any], output: str, code: int) -> None:
    with gateway(lambda request: Answer(body=state)) as stub:
        ran = sagrada("status", "j1", "--url", stub.url)
    assert (ran.stdout, ran.exit_code) == (output, code)


def test_status_as_json() -> None:
    with gateway(lambda request: Answer(body=job("queued", queue_position=1))) as stub:
        ran = sagrada("status", "j1", "--json", "--url", stub.url)
    assert json.loads(ran.stdout)["queue_position"] == 1


def test_stream_as_json_lines() -> None:
    with gateway(lambda request: Answer(text=sse(token(4), done(5)))) as stub:
        ran = sagrada("stream", "j1", "--after", "3", "--json", "--url", stub.url)
    assert ran.exit_code == 0
    assert [json.loads(line)["type"] for line in ran.stdout.splitlines()] == ["token", "done"]
    assert stub.requests[0].headers["last-event-id"] == "3"


def test_several_texts_are_not_mixed() -> None:
    tokens = [token(seq) | {"choice": seq % 2} for seq in range(4)]
    with gateway(lambda request: Answer(text=sse(*tokens, done(4)))) as stub:
        ran = sagrada("stream", "j1", "--url", stub.url)
        sagrada("submit", "Hello", "--n", "2", "--url", stub.url)
    assert (ran.exit_code, ran.stdout) == (0, "t0 t2 \n\nt1 t3 \n")
    assert stub.requests[-1].body["parameters"] == {"n": 2}


def test_stream_of_what_was_seen_is_no_error() -> None:
    with gateway(lambda request: Answer(204)) as stub:
        ran = sagrada("stream", "j1", "--after", "9", "--url", stub.url)
    assert (ran.exit_code, ran.stdout.strip()) == (0, "")


def test_cancel() -> None:
    with gateway(lambda request: Answer(body=job("cancelled"))) as stub:
        ran = sagrada("cancel", "j1", "--url", stub.url)
    assert (ran.exit_code, ran.stdout) == (0, "cancelled\n")


def test_the_key_comes_from_option_or_environment() -> None:
    def asked(*args: str, **env: str) -> str | None:
        with gateway(lambda request: Answer(body=job("cancelled"))) as stub:
            assert sagrada("cancel", "j1", "--url", stub.url, *args, env=env).exit_code == 0
        return stub.requests[0].headers.get("authorization")

    assert asked() is None and asked(SAGRADA_API_KEY=" \n") is None
    assert asked(SAGRADA_API_KEY="sk-1\n") == "Bearer sk-1"
    assert asked("--api-key", "sk-2", SAGRADA_API_KEY="sk-1") == "Bearer sk-2"
    refused = sagrada("cancel", "j1", env={"SAGRADA_API_KEY": "hush\nhush"})
    assert refused.exit_code == 2 and "hush" not in refused.output


@pytest.mark.parametrize(
    ("variable", "value"), [("PORT", "eighty"), ("WORKERS", "0"), ("DTYPE", "int3"), ("LEASE_SECONDS", "x")]
)
def test_a_bad_setting_names_its_variable(variable: str, value: str) -> None:
    ran = sagrada("up", env={variable: value})
    assert ran.exit_code == 2
    assert variable in ran.stderr and value in ran.stderr
