"""What is known of the machine before anything is judged: read once, so that tests can judge any other machine."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.environment import GAUDI_PLUGIN
from worker.card import Kind
from worker.config import Config, variables
from worker.discovery import installed, kind_of

DISTRIBUTIONS = ("torch", "transformers", "celery", "kombu", GAUDI_PLUGIN)
"""Whose versions matter."""

CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The software's half of a machine."""

    kind: Kind
    """What a worker would run on."""
    chosen: bool
    """Whether DEVICE says so; otherwise it is what was found."""
    variables: Mapping[str, str]
    """The environment."""
    versions: Mapping[str, str]
    """Of the installed ones of DISTRIBUTIONS."""
    tools: frozenset[str]
    """Which of hl-smi and nvidia-smi are on PATH."""
    python: tuple[int, int]
    system: str
    """The distribution and its version, `ubuntu 24.04`."""
    container: bool

    def version(self, distribution: str) -> tuple[int, ...]:
        """Its version's leading numbers; empty: it is not installed, or they cannot be read."""
        return numbers(self.versions.get(distribution, ""))


def read(config: Config) -> Machine:
    """This machine, as a worker with that configuration would find it."""
    found = {name: installed(name) for name in DISTRIBUTIONS}
    environment = variables()
    return Machine(
        kind=kind_of(config.device),
        chosen=config.device != "auto",
        variables=environment,
        versions={name: version for name, version in found.items() if version},
        tools=frozenset(tool for tool in ("hl-smi", "nvidia-smi") if shutil.which(tool)),
        python=sys.version_info[:2],
        system=_system(),
        container=any(mark.exists() for mark in CONTAINER_MARKS) or "KUBERNETES_SERVICE_HOST" in environment,
    )


def numbers(version: str) -> tuple[int, ...]:
    """`2.11.0+cpu` → (2, 11, 0)."""
    read: list[int] = []
    for part in version.partition("+")[0].split("."):
        if not part.isdecimal():
            break
        read.append(int(part))
    return tuple(read)


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.system().lower()
    return f"{release.get('ID', 'linux')} {release.get('VERSION_ID', '')}".strip()
