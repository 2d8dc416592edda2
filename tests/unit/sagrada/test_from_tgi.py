"""Every flag of TGI's launcher is taken, idle or refused; what comes of it; and the page that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.config import Config as GatewayConfig
from sagrada.__main__ import main
from sagrada.from_tgi import FLAGS, NotHere, translate
from tests.deploy.from_tgi import FILE, with_table
from worker.config import Config as WorkerConfig

TGI = """
model-id revision validation-workers sharded num-shard quantize speculate dtype kv-cache-dtype trust-remote-code
max-concurrent-requests max-best-of max-stop-sequences max-top-n-tokens max-input-tokens max-input-length
max-total-tokens waiting-served-ratio max-batch-prefill-tokens max-batch-total-tokens max-waiting-tokens max-batch-size
cuda-graphs hostname port prometheus-port shard-uds-path master-addr master-port huggingface-hub-cache
weights-cache-override disable-custom-kernels cuda-memory-fraction rope-scaling rope-factor json-output otlp-endpoint
otlp-service-name cors-allow-origin api-key watermark-gamma watermark-delta ngrok ngrok-authtoken ngrok-edge
tokenizer-config-path disable-grammar-support env max-client-batch-size lora-adapters usage-stats payload-limit
enable-prefill-logprobs graceful-termination-timeout
"""
"""The launcher's own, of its last version; `max-image-fetch-size` is its router's alone."""

OURS = {f.name.upper() for config in (GatewayConfig, WorkerConfig) for f in fields(config)}


def test_every_flag_of_the_launcher_is_in_the_table_once() -> None:
    names = [name for flag in FLAGS for name in (flag.name, *flag.aliases)]
    assert sorted(names) == sorted([*(f"--{name}" for name in TGI.split()), "--max-image-fetch-size"])


def test_what_is_taken_is_a_setting_of_ours_and_what_is_refused_has_a_sentence() -> None:
    for flag in FLAGS:
        assert bool(flag.ours) == (flag.fate == "taken"), flag
        assert not flag.ours or flag.ours in OURS, flag
        assert flag.fate == "taken" or len(flag.why) > 15, flag


def test_the_page_has_the_table() -> None:
    text = FILE.read_text()
    assert text == with_table(text), "python -m tests.deploy.from_tgi"


@pytest.mark.parametrize(
    ("given", "environ", "settings"),
    [
        ({}, {}, {}),
        ({"--model-id": "a/b"}, {}, {"MODEL_ID": "a/b"}),
        ({"--model-id": "a/b"}, {"MODEL_ID": "c/d"}, {"MODEL_ID": "a/b"}),
        ({}, {"MODEL_ID": "c/d"}, {}),  # it stands in the environment as it is
        ({"--max-batch-size": "8"}, {}, {"SLOTS": "8"}),
        ({}, {"MAX_BATCH_SIZE": "8"}, {"SLOTS": "8"}),
        ({}, {"MAX_BATCH_SIZE": "8", "SLOTS": "4"}, {}),
        ({"--max-batch-size": "8"}, {"MAX_BATCH_SIZE": "2", "SLOTS": "4"}, {"SLOTS": "8"}),
        ({}, {"MAX_INPUT_LENGTH": "100"}, {"MAX_INPUT_TOKENS": "100"}),
        ({}, {"MAX_INPUT_LENGTH": "100", "MAX_INPUT_TOKENS": "90"}, {}),
        ({}, {"HOSTNAME": "3f2a"}, {}),
        ({"--hostname": "::"}, {}, {"HOST": "::"}),
        (
            {"--huggingface-hub-cache": "/a", "--weights-cache-override": "/b"}, {}, {"CACHE_DIR": "/b"}
        ),
        ({"--watermark-delta": "3"}, {}, {"WATERMARK_GAMMA": "0.5", "WATERMARK_DELTA": "3"}),
        ({}, {"WATERMARK_DELTA": "3"}, {"WATERMARK_GAMMA": "0.5"}),
        ({"--watermark-delta": "3"}, {"WATERMARK_GAMMA": "0.2"}, {"WATERMARK_DELTA": "3"}),
        ({"--trust-remote-code": "false", "--sharded": "false", "--speculate": "0"}, {}, {}),
        ({"--cuda-memory-fraction": "1.0"}, {"TRUST_REMOTE_CODE": "False"}, {}),
        ({}, {"ENV": "production"}, {}),
    ],
)  # fmt: skip
def test_what_a_command_line_comes_to(
    given: dict[str, str], environ: dict[str, str], settings: dict[str, str]
) -> None:
    assert translate(given, environ).settings == settings


@pytest.mark.parametrize(
    "flag", [flag for flag in FLAGS if flag.fate == "refused"], ids=lambda flag: flag.name
)
def test_what_is_refused_says_what_to_use(flag: Any) -> None:
    with pytest.raises(NotHere, match=f"^{flag.name} is not Sagrada's: "):
        translate({flag.name: "something"}, {})
    if flag.in_environment:
        with pytest.raises(NotHere, match=f"^{flag.variable} is not Sagrada's: "):
            translate({}, {flag.variable: "something"})


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.fate == "idle"], ids=lambda flag: flag.name)
def test_what_has_no_effect_is_said(flag: Any) -> None:
    translated = translate({flag.name: "1"}, {})
    assert not translated.settings
    assert translated.notes == (f"{flag.name} has no effect: {flag.why}.",)


def test_a_switch_may_stand_alone() -> None:
    ran = CliRunner().invoke(main, ["launch", "--trust-remote-code", "--model-id", "demo"])
    assert ran.exit_code == 1
    assert "Error: --trust-remote-code is not Sagrada's: code out of a model's repository" in ran.output


def test_an_unknown_flag_is_a_wrong_call() -> None:
    assert CliRunner().invoke(main, ["launch", "--no-such-flag"]).exit_code == 2


def test_it_becomes_up_with_its_settings() -> None:
    flags = ["--model-id", "demo", "--max-batch-size", "none", "--waiting-served-ratio", "1.2"]
    ran = subprocess.run(
        [sys.executable, "-m", "sagrada", "launch", *flags], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PORT": "0"},
    )  # fmt: skip
    assert ran.returncode == 2
    assert "--waiting-served-ratio has no effect" in ran.stderr
    assert "SLOTS" in ran.stderr or "PORT" in ran.stderr  # up's own refusal of a setting that launch gave it
