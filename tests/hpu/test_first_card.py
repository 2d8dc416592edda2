"""`sagrada doctor --first-card` on the stand-in: all is well there, and what is not is found by the check for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from models.step import LoadSpec
from tests.hpu.contracts.faults import FAULTS
from tests.hpu.profiles import COMPILE, LAZY, PROFILES, Profile
from tests.support.cards import GAUDI_2, first_on_path, hl_smi
from worker.doctor import first_card
from worker.doctor.first_card import CHECKS
from worker.seat import Seat

CARD = 3
COMPARED = all(find_spec(name) for name in ("optimum", "torchvision"))
"""With optimum-habana, which cannot be imported without torchvision."""


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
    code, good, report = examined(profile, model_of("llama"), tmp_path)
    assert good == {name: COMPARED or name != "reference" for name in CHECKS}, report
    assert code == int(not COMPARED)
    assert f"software {profile.release}" in report
    assert ("HPU Graphs" if profile.lazy else "torch.compile") in report
    assert ("optimum-habana wrote 4 of 4 texts alike" if COMPARED else "install sagrada[gaudi]") in report


@pytest.mark.full
@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_recipes_that_are_not_found_again_fail_that_check_and_no_other(
    profile: Profile, model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    code, good, report = examined(profile, model_of("llama"), tmp_path, HPU_STAND_IN_FAULT="disk")
    assert code == 1
    assert good == {name: name != "again" and (COMPARED or name != "reference") for name in CHECKS}, report


EVERY_TIME = ("event", LAZY)
CASES = [
    pytest.param(
        name, profile, id=f"{name}-{profile}", marks=() if (name, profile) == EVERY_TIME else pytest.mark.full
    )
    for name, fault in FAULTS.items()
    for profile in PROFILES
    if profile.lazy in fault.modes and fault.check != "again"
]


@pytest.mark.parametrize(("name", "profile"), CASES)
def test_what_is_wrong_is_found_by_the_check_for_it(
    name: str,
    profile: Profile,
    model_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A check that crashes has found it, too."""
    monkeypatch.setattr(first_card, "PROGRAM", "tests.hpu.contracts.checks")
    given = profile.environment(HPU_STAND_IN_FAULT=name, HPU_STAND_IN_LOCKS=str(tmp_path))
    for variable, text in given.items():
        monkeypatch.setenv(variable, text)
    folder = str(model_of("llama"))
    spec = LoadSpec(model_id=folder, device="hpu", dtype="float32", recipes=str(tmp_path / "recipes"))
    seen = first_card.run(FAULTS[name].check, spec, Seat())
    assert not seen.good and re.search(FAULTS[name].says, seen.text), seen
