"""The storm, short and by a fixed seed; `make chaos` has longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.storm import storm

pytest.importorskip("torch", reason="the demo model runs on torch, which this environment lacks")


def test_no_job_is_lost_and_every_stream_is_what_it_would_have_been(tmp_path: Path) -> None:
    outcome = storm(tmp_path, seed=4, seconds=35, clients=12)
    print(outcome.report())
    assert not outcome.wrong and not outcome.left, outcome.report()
    assert outcome.faults.total() >= 5 and outcome.counts["stream"] >= 5, "nothing was disturbed"
