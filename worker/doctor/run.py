"""The command: all checks in their order, the report, the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from worker.config import Config, ConfigError, load, parser, variables
from worker.doctor import hardware, software
from worker.doctor.finding import Finding, as_json, as_text, count, error
from worker.doctor.machine import read
from worker.doctor.store import redis
from worker.seat import folder_of

DESCRIPTION = (
    "Look at this machine as a worker with these settings would find it: driver, versions, image, environment, cards, "
    "shared memory, limits, Redis (if REDIS_URL is set). One line for each finding, with what to do about it; "
    "the exit code is 1 if one is an error. Nothing is started or changed."
)


def main(argv: Sequence[str]) -> int:
    """Print what was found; the exit code."""
    options = parser("sagrada doctor", DESCRIPTION)
    options.add_argument("--json", action="store_true", help="print the findings as JSON")
    given = vars(options.parse_args(argv))
    findings = list(examine({name: text for name, text in given.items() if text and name != "json"}))
    print(as_json(findings) if given["json"] else as_text(findings))
    return 1 if count(findings, "error") else 0


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
