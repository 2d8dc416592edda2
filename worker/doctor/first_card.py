"""The checks for a machine's first card: each in an engine's environment and a process of its own, and a report.

A check that crashes, or does not end, costs nothing but itself. models/first_card has what they do.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from models.step import LoadSpec
from worker.config import Config
from worker.doctor.finding import Finding
from worker.launcher import child_environment, describe_exit
from worker.process import load_spec
from worker.seat import Seat

CHECKS: Mapping[str, str] = {
    "card": "the card can be taken",
    "kernels": "fused kernels compute what their plain forms do",
    "replay": "a replay reads and writes its buffers anew",
    "fetch": "copies to the host hold what they were asked for",
    "decode": "flat paged attention is right, and new values compile nothing",
    "sealed": "an unplanned shape is an error",
    "engine": "a model writes what it does on the host, and nothing is compiled after warm-up",
    "again": "the next start finds its recipes",
    "reference": "texts and speed of optimum-habana's generate",
}
"""In their order: each depends on those before it."""

PROGRAM = "models.first_card"
"""The module that runs one of them."""

ON_GAUDI = frozenset({"again", "reference"})
PATIENCE = 1800.0
"""Seconds for one check: a large model's warm-up on a card that nobody has timed yet."""
LAST_LINES = 15
"""Of what a check that crashed has said."""

Say = Callable[[str], None]


class Seen(msgspec.Struct, frozen=True):
    """What one check saw; as models.first_card.subject has it."""

    good: bool
    text: str
    figures: dict[str, float] = {}
    tokens: list[list[int]] = []


@dataclass(frozen=True, slots=True)
class Report:
    """The findings of the doctor, and what each check saw."""

    findings: Sequence[Finding]
    model: str
    seen: dict[str, Seen] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether every check saw what it should."""
        return all(each.good for each in self.seen.values())

    def text(self) -> str:
        """Markdown."""
        lines = [
            f"# First card, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "",
            f"Model: {self.model}.",
            "",
            "| check | | what was seen |",
            "|---|---|---|",
        ]
        for name, seen in self.seen.items():
            lines.append(f"| {CHECKS[name]} | {'ok' if seen.good else '**failed**'} | {_cell(seen)} |")
        lines += ["", *_compared(self.seen), "", "```", *map(str, self.findings), "```", ""]
        return "\n".join(lines)


def _cell(seen: Seen) -> str:
    figures = "; ".join(f"{name} {value:.4g}" for name, value in seen.figures.items())
    text = seen.text.replace("|", "\\|").replace("\n", "<br>")
    return f"{text}. {figures}" if figures else text


def _compared(seen: Mapping[str, Seen]) -> list[str]:
    """What two checks say together."""
    lines = []
    first, again, other = (seen.get(name) for name in ("engine", "again", "reference"))
    if first and again and (once := first.figures.get("warm-up, s")):
        lines.append(f"The second warm-up took {again.figures.get('warm-up, s', 0) / once:.0%} of the first.")
    if first and other and first.tokens and other.tokens:
        pairs = list(zip(first.tokens, other.tokens, strict=True))
        equal = sum(a == b for a, b in pairs)
        ratio = other.figures["step, ms"] / first.figures["decode step, ms"]
        lines.append(
            f"optimum-habana wrote {equal} of {len(pairs)} texts alike; one step took it {ratio:.2f} times ours."
        )
    return lines


def examine(
    config: Config, seat: Seat, findings: Sequence[Finding], say: Say, checks: Sequence[str] = tuple(CHECKS)
) -> Report:
    """Run the checks that fit this card; each is told as it begins and as it ends."""
    spec = load_spec(config, seat)
    report = Report(findings, spec.model_id)
    with TemporaryDirectory(prefix="sagrada-recipes-") as recipes:  # so that the first start has none to find
        for name in checks:
            if name in ON_GAUDI and spec.device != "hpu":
                continue
            say(f"{name}: {CHECKS[name]} …")
            report.seen[name] = seen = run(name, replace(spec, recipes=recipes), seat)
            say(f"{'  ok' if seen.good else '  FAILED'}: {seen.text}")
    return report


def run(name: str, spec: LoadSpec, seat: Seat) -> Seen:
    """One check, to its end or its crash."""
    command = [sys.executable, "-m", PROGRAM, name, "--device", spec.device]
    command += ["--model-id", spec.model_id, "--dtype", spec.dtype, "--recipes", spec.recipes]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=_environment(spec, seat),
        )
    except subprocess.TimeoutExpired:
        return Seen(False, f"it did not end within {PATIENCE:.0f} s")
    if ran.returncode:
        said = "\n".join(ran.stderr.strip().splitlines()[-LAST_LINES:])
        return Seen(False, f"{describe_exit(ran.returncode)}:\n{said}")
    return msgspec.json.decode(ran.stdout.splitlines()[-1], type=Seen)


def _environment(spec: LoadSpec, seat: Seat) -> dict[str, str]:
    """An engine's, with this environment's pip: optimum-habana asks the pip on PATH for Habana's version."""
    found = child_environment(spec, seat.environment)
    return found | {"PATH": f"{Path(sys.executable).parent}:{found.get('PATH', '')}"}
