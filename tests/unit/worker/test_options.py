from __future__ import annotations

import pytest

from models.step import LoadSpec
from worker.launcher import child_environment
from worker.options import Options, arguments, parse

SPEC = LoadSpec(
    model_id="org/model name",
    revision="main",
    dtype="float64",
    slots=7,
    offline=True,
    cache_dir="/a b",
    watermark_gamma=0.25,
)


def options(spec: LoadSpec) -> Options:
    return Options(link_fd=3, beat_fd=4, parent=5, patience=2.5, spec=spec)


def test_what_the_launcher_writes_the_engine_reads() -> None:
    assert parse(arguments(options(SPEC))) == options(SPEC)


def test_the_token_is_in_the_environment_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    secret = LoadSpec(model_id="m", token="hf_secret")
    assert "hf_secret" not in repr(arguments(options(secret))) + repr(secret)
    assert child_environment(secret, {"A": "1"})["HF_TOKEN"] == "hf_secret"
    assert child_environment(secret, {"A": "1"})["A"] == "1"
    assert "HF_TOKEN" not in child_environment(SPEC, {})


def test_what_the_person_set_goes_before_our_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert child_environment(SPEC, {})["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert child_environment(SPEC, {})["OMP_WAIT_POLICY"] == "ACTIVE"
