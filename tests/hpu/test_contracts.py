"""The contracts of the stand-in, each file of them under each profile that it is for, one process per profile."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest

from tests.hpu.profiles import PROFILES, ROOT, Profile

CONTRACTS = Path(__file__).parent / "contracts"


def files(profile: Profile) -> list[Path]:
    """The contracts of that profile."""
    return sorted(path for room in ("both", profile.name) for path in (CONTRACTS / room).glob("[!_]*.py"))


@cache
def outcome(profile: Profile) -> tuple[dict[str, list[str]], str]:
    """File → what became of each of its cases, and what pytest printed."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        names = [str(path.relative_to(ROOT)) for path in files(profile)]
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}"]
        ran = profile.run("-m", "pytest", *options, *names, HPU_STAND_IN_LOCKS=folder)
        cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
        became: dict[str, list[str]] = {}
        for case in cases:
            became.setdefault(case.attrib["classname"], []).extend(each.tag for each in case)
    return became, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("profile", "path"),
    [(each, path) for each in PROFILES for path in files(each)],
    ids=lambda each: Path(str(each)).stem,
)
def test_the_contract_holds(profile: Profile, path: Path) -> None:
    became, printed = outcome(profile)
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    cases = [each for module, each in became.items() if f"{module}.".startswith(f"{name}.")]
    assert cases and not any(cases), printed
