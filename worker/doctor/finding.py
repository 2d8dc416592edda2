"""What the doctor finds: one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    level: Level
    text: str
    """What was found, in a sentence."""
    remedy: str = ""
    """What to do about it; empty where all is well."""

    def __str__(self) -> str:
        return f"{self.level:<8} {self.check:<12} {self.text} {self.remedy}".rstrip()


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """A worker would run, though not as well or as long as it should."""
    return Finding(check, "warning", text, remedy)


def error(check: str, text: str, remedy: str) -> Finding:
    """A worker would not run."""
    return Finding(check, "error", text, remedy)


def count(findings: Sequence[Finding], level: Level) -> int:
    """How many there are of that level."""
    return sum(finding.level == level for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """All of them, and how many are bad."""
    report: dict[str, Any] = {
        "errors": count(findings, "error"),
        "warnings": count(findings, "warning"),
        "findings": findings,
    }
    return msgspec.json.format(msgspec.json.encode(report)).decode()


def as_text(findings: Sequence[Finding]) -> str:
    """A line for each, and one for all."""
    errors, warnings = count(findings, "error"), count(findings, "warning")
    return "\n".join([*map(str, findings), f"{errors} errors, {warnings} warnings"])
