"""The run on a card, as far as a host can tell: it runs to its end, texts are equal, nothing is captured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import cuda


def test_it_runs_on_the_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert cuda.main(["--device", "cpu", "--small", "--repeats", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [(row["model"], row["dtype"]) for row in report["exact"] if row["dtype"] == "float64"] == [
        (variant, "float64") for variant in cuda.EXACT
    ]
    assert list(report["speed"]["rows"]) == ["decode, batch 1", "decode, batch 4", "prefill of 64"]
    assert report["speed"]["captured"] == 0
    assert "| deepseek_v3 | float64 | equal | 0 |" in capsys.readouterr().out
