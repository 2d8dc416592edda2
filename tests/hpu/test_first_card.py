"""`sagrada doctor --first-card` on the stand-in: all is well there, and what is not is found by the check for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.hpu.profiles import COMPILE, LAZY, Profile
from tests.support.cards import GAUDI_2, first_on_path, hl_smi
from worker.doctor.first_card import CHECKS

CARD = 3


def examined(
    profile: Profile, model: Path, folder: Path, **environment: str
) -> tuple[int, dict[str, bool], str]:
    """What `sagrada doctor --first-card` exits with, whether each check went well, and its report."""
    hl_smi(folder / "bin", GAUDI_2, f"{profile.release}.0-5a9c3f1\n")
    report = folder / "report.md"
    options = ["--device", "hpu", "--card", str(CARD), "--model-id", str(model), "--dtype", "float32"]
    ran = profile.run(
        "-m", "tests.hpu.contracts.doctor", profile.torch, *options, "--first-card", str(report),
        PATH=first_on_path(folder / "bin"), LOCK_DIR=str(folder), HPU_STAND_IN_LOCKS=str(folder),
        PT_HPU_LAZY_MODE="",  # the launcher chooses by torch
        **environment,
    )  # fmt: skip
    assert report.exists(), ran.stdout + ran.stderr
    text = report.read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| (ok|\*\*failed\*\*) \|", text, re.MULTILINE))
    return ran.returncode, {name: rows[sentence] == "ok" for name, sentence in CHECKS.items()}, text


@pytest.mark.parametrize(
    "profile", [LAZY, pytest.param(COMPILE, marks=pytest.mark.full)], ids=lambda profile: profile.name
)
def test_every_check_passes(profile: Profile, model_of: Callable[[str], Path], tmp_path: Path) -> None:
    """But the last, where there is no optimum-habana to compare with: `make test-all` has it."""
    compared = find_spec("optimum") is not None
    code, good, report = examined(profile, model_of("llama"), tmp_path)
    assert good == {name: compared or name != "reference" for name in CHECKS}, report
    assert code == int(not compared)
    assert f"software {profile.release}" in report
    assert ("HPU Graphs" if profile.lazy else "torch.compile") in report
    assert ("optimum-habana wrote 4 of 4 texts alike" if compared else "install sagrada[gaudi]") in report
