"""The run on a card, as far as a host can tell: it runs to its end, texts are equal, nothing is captured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from bench import cuda
from bench.ceilings import Ceilings, Work
from bench.contest import Contest
from bench.in_memory import random_model
from bench.static_generate import Prompts, StaticGenerate


def test_it_runs_on_the_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert cuda.main(["--device", "cpu", "--small", "--repeats", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [(row["model"], row["dtype"]) for row in report["exact"] if row["dtype"] == "float64"] == [
        (variant, "float64") for variant in cuda.EXACT
    ]
    cases = report["speed"]["cases"]
    assert [case["name"] for case in cases] == ["decode, batch 1", "decode, batch 4", "prefill of 64"]
    assert all(case["bound"] > 0 and len(case["ours"]) == len(case["theirs"]) == 1 for case in cases)
    assert report["speed"]["captured"] == 0
    said = capsys.readouterr().out
    assert "| deepseek_v3 | float64 | equal | 0 |" in said
    assert all(f"| {case['name']} | {case['shape']} |" in said for case in cases)


def test_without_the_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda.main(["--device", "abacus"]) == 2
    assert "'abacus' is not known" in capsys.readouterr().err


class Uncompilable(StaticGenerate):
    """Whose compiler fails."""

    def __init__(self) -> None:
        self.asked = 0

    def warm_up(self, prompts: Prompts, new: int) -> float:
        self.asked += 1
        raise RuntimeError("no C compiler")


def test_our_figures_stand_when_transformers_cannot_compile(capsys: pytest.CaptureFixture[str]) -> None:
    peer = Uncompilable()
    contest = Contest(peer, rounds=2)
    for _ in range(2):
        case = contest.run(
            "a", "b", 0.5, lambda: 1.0, lambda peer: peer.seconds([], 1), lambda peer: peer.warm_up([], 1)
        )
        assert (case.ours, case.theirs, case.compiling) == ([1.0, 1.0], [], None)
    said = capsys.readouterr()
    assert peer.asked == 1
    assert "transformers leaves: RuntimeError: no C compiler" in said.err
    assert said.out.splitlines()[0] == "| a | b | 500.00 | 1000.00 [1000.00 … 1000.00] | 50% | – | – | – |"


def test_what_a_step_needs_is_counted_from_the_model() -> None:
    """Two layers of 64, heads of 16 with two of keys and values, in float32."""
    model = random_model(
        AutoConfig.for_model("llama", **cuda.TWO_THIN_LAYERS), torch.float32, torch.device("cpu")
    )
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    work = Work.of(model)
    assert work.read == 4 * (2 * layer + 64 + 512 * 64)
    assert work.cached == 2 * 2 * 2 * 16 * 4
    ceilings = Ceilings(copy=[1e9], matmul=[1e12])
    assert work.decode(ceilings, 10) == pytest.approx((work.read + 10 * work.cached) / 1e9)
    products = (
        10 * 2 * layer + 512 * 64 + 10 * 10 * 2 * 64
    )  # of scores a half, and as much again with the values
    assert work.prefill(ceilings, 10) == pytest.approx(2 * products / 1e12)
