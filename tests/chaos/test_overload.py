"""Overload and frozen workers, short; `make chaos` has them in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.frozen import frozen
from tests.chaos.overload import overload

pytestmark = pytest.mark.full


def test_who_is_accepted_is_served_who_is_refused_hears_the_truth_and_nothing_grows(tmp_path: Path) -> None:
    outcome = overload(tmp_path, seconds=30, warm=40, times=5)
    print(outcome.report())
    assert not outcome.faults(least_true=0.8, steepest=4.0), outcome.report()
    assert outcome.accepted > 300 and outcome.refused > 1000, "there was no overload"
    assert outcome.at_once > outcome.returned / 2, "who came when they were told came in vain"


def test_workers_frozen_while_they_wait_take_no_job_with_them(tmp_path: Path) -> None:
    outcome = frozen(tmp_path, seed=2, jobs=100)
    print(outcome.report())
    assert outcome.jobs == 100 and not outcome.lost, outcome.report()
