"""The checks for a first card, on the host: they run, they pass, and they can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.step import LoadSpec
from worker.config import Config
from worker.doctor import first_card
from worker.doctor.finding import ok
from worker.doctor.first_card import Report, Seen
from worker.seat import Seat

FINDINGS = [ok("driver", "There is one.")]


@pytest.mark.full
def test_they_pass_on_the_host_in_their_order(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    few = ["card", "kernels", "replay", "fetch", "decode", "sealed", "again"]
    report = first_card.examine(Config(device="cpu"), Seat(), FINDINGS, said.append, few)
    assert report.good and list(report.seen) == few[:-1]  # the last is Gaudi's
    assert said[0] == "card: the card can be taken …" and said[1].startswith("  ok: cpu:")
    text = report.text()
    assert "| fused kernels compute what their plain forms do | ok |" in text
    assert "ok       driver       There is one." in text


def test_one_that_crashes_costs_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(first_card.CHECKS, "nonsense", "there is no such check")
    said: list[str] = []
    report = first_card.examine(Config(device="cpu"), Seat(), FINDINGS, said.append, ["nonsense", "card"])
    assert not report.good and report.seen["card"].good
    assert "invalid choice: 'nonsense'" in report.seen["nonsense"].text
    assert "| there is no such check | **failed** |" in report.text()


def test_one_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_card, "PATIENCE", 0.05)
    seen = first_card.run("card", LoadSpec(model_id="demo", device="cpu"), Seat())
    assert seen == Seen(False, "it did not end within 0 s")


def test_what_cannot_be_used_is_a_sentence() -> None:
    seen = first_card.run("card", LoadSpec(model_id="demo", device="cuda"), Seat())
    assert not seen.good and "this torch sees no NVIDIA card" in seen.text


def test_starts_and_texts_are_compared() -> None:
    engine = Seen(True, "it wrote", {"warm-up, s": 200.0, "decode step, ms": 10.0}, [[1, 2], [3, 4]])
    again = replace_figures(engine, 50.0)
    reference = Seen(True, "it has written", {"step, ms": 25.0}, [[1, 2], [3, 5]])
    report = Report(FINDINGS, "demo", {"engine": engine, "again": again, "reference": reference})
    assert "The second warm-up took 25% of the first." in report.text()
    assert "optimum-habana wrote 1 of 2 texts alike; one step took it 2.50 times ours." in report.text()


def replace_figures(seen: Seen, warm_up: float) -> Seen:
    return Seen(seen.good, seen.text, seen.figures | {"warm-up, s": warm_up}, seen.tokens)


def test_the_command_writes_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.doctor import run

    monkeypatch.setattr(first_card, "CHECKS", {"card": "the card can be taken"})
    monkeypatch.setattr(first_card.examine, "__defaults__", (("card",),))
    monkeypatch.setattr(run, "examine", lambda settings: iter(FINDINGS))
    report = tmp_path / "report.md"
    assert run.main(["--device", "cpu", "--first-card", str(report)]) == 0
    assert "| the card can be taken | ok | cpu:" in report.read_text()
