"""The command: all checks in their order, the report, the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from worker.card import CardError
from worker.config import Config, ConfigError, load, parser, variables
from worker.doctor import first_card, hardware, software
from worker.doctor.finding import Finding, as_json, as_text, count, error
from worker.doctor.machine import read
from worker.doctor.store import redis
from worker.seat import folder_of, take

DESCRIPTION = (
    "Look at this machine as a worker with these settings would find it: driver, versions, image, environment, cards, "
    "shared memory, limits, Redis (if REDIS_URL is set). One line for each finding, with what to do about it; "
    "the exit code is 1 if one is an error. Nothing is started or changed, but with --first-card."
)


def main(argv: Sequence[str]) -> int:
    """Print what was found; the exit code."""
    options = parser("sagrada doctor", DESCRIPTION)
    options.add_argument("--json", action="store_true", help="print the findings as JSON")
    options.add_argument(
        "--first-card",
        nargs="?",
        const="first-card.md",
        metavar="REPORT",
        help="then run the checks for a machine's first card, which takes it for minutes, and write them down "
        "(first-card.md)",
    )
    given = vars(options.parse_args(argv))
    json, report = given.pop("json"), given.pop("first_card")
    settings = {name: text for name, text in given.items() if text}
    findings = list(examine(settings))
    print(as_json(findings) if json else as_text(findings), flush=True)
    bad = bool(count(findings, "error"))
    if report and not bad:
        bad = not check_first_card(settings, findings, Path(report))
    return 1 if bad else 0


def check_first_card(settings: Mapping[str, str], findings: Sequence[Finding], report: Path) -> bool:
    """Take the card that CARD names, or any; run the checks, write the report; whether all was well."""
    config = load(settings)
    try:
        seat = take(config)
    except CardError as error:
        print(error)
        return False
    done = first_card.examine(config, seat, findings, lambda text: print(text, flush=True))
    report.write_text(done.text())
    print(f"Written to {report}.")
    return done.good


def examine(options: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that is looked at."""
    try:
        config = load(options)
    except ConfigError as refused:
        yield error("settings", f"{refused}.", "The rest is looked at as if nothing were set.")
        config = Config()
    machine = read(config)
    yield from hardware.driver(machine)
    yield from software.versions(machine)
    yield from software.image(machine)
    yield from software.environment(machine)
    yield from hardware.cards(machine, folder_of(config))
    yield from hardware.shared_memory()
    yield from hardware.limits(machine)
    yield from software.pairing(machine)
    if options.get("redis_url") or variables().get("REDIS_URL"):
        yield from redis(config.redis_url)
