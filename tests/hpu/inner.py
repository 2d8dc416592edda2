"""Contracts under pytest in a process of their own: how they went, file by file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from tests.hpu.profiles import ROOT, Profile

CONTRACTS = Path(__file__).parent / "contracts"


def files(room: str) -> list[Path]:
    """The contracts in that folder."""
    return sorted(path for path in (CONTRACTS / room).glob("[!_]*.py") if path.name != "conftest.py")


@cache
def outcome(profile: Profile, *paths: Path) -> tuple[dict[str, list[str]], str]:
    """Module or class → what was amiss with any of its cases; and what pytest printed."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        names = [str(path.relative_to(ROOT)) for path in paths]
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}"]
        ran = profile.run("-m", "pytest", *options, *names, HPU_STAND_IN_LOCKS=folder)
        amiss: dict[str, list[str]] = {}
        for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
            amiss.setdefault(case.attrib["classname"], []).extend(each.tag for each in case)
    return amiss, ran.stdout + ran.stderr


def check(profile: Profile, path: Path, *together: Path) -> None:
    """AssertionError unless the file has cases and all of them passed; run together with others, once."""
    amiss, printed = outcome(profile, *together)
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    cases = [each for module, each in amiss.items() if f"{module}.".startswith(f"{name}.")]
    assert cases and not any(cases), printed
