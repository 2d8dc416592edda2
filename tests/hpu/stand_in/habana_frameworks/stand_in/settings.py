"""What the environment says, read once when the plugin is imported; a later change is an error, not a surprise."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

GIB = 1 << 30
MEMORY = {"gaudi": 32 * GIB, "gaudi2": 96 * GIB, "gaudi3": 128 * GIB}
"""Device type → bytes of its memory."""
FP8_MAX = {"gaudi2": 240.0, "gaudi3": 448.0}
"""Device type → the largest number of its E4M3; a Gaudi 1 has none."""

LATCHED = (
    "PT_HPU_LAZY_MODE", "PT_ENABLE_INT64_SUPPORT", "PT_HPU_ENABLE_LAZY_COLLECTIVES", "PT_HPU_RECIPE_CACHE_CONFIG",
)  # fmt: skip
BINDING = ("HLS_MODULE_ID", "HABANA_VISIBLE_MODULES")
"""What says which card a process takes, until it has taken one."""

LAST_LAZY = (1, 22)
"""The last of our two releases with a torch of Habana's own, without which there is no lazy mode."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One process's."""

    release: tuple[int, int]
    """Of the plugin whose metadata is installed."""
    lazy: bool
    device_type: str
    memory: int
    """Bytes that a process can allocate."""
    cards: int
    locks: Path
    """Where the locks of this machine's cards are."""
    wide: bool
    """Whether int64 is one; else it is an int32 that says otherwise."""
    lazy_collectives: bool
    latched: Mapping[str, str | None]


def read(environment: Mapping[str, str]) -> Settings:
    """The settings."""
    major, minor, *_ = (int(part) for part in version("habana-torch-plugin").split("."))
    release = (major, minor)
    lazy = environment.get("PT_HPU_LAZY_MODE", "1" if release <= LAST_LAZY else "0") == "1"
    device_type = environment.get("HPU_STAND_IN_DEVICE", "gaudi2")
    return Settings(
        release=release,
        lazy=lazy,
        device_type=device_type,
        memory=int(environment.get("HPU_STAND_IN_MEMORY", MEMORY[device_type])),
        cards=int(environment.get("HPU_STAND_IN_CARDS", 8)),
        locks=Path(environment.get("HPU_STAND_IN_LOCKS", tempfile.gettempdir())),
        wide=environment.get("PT_ENABLE_INT64_SUPPORT", "0") in ("1", "true"),
        lazy_collectives=environment.get("PT_HPU_ENABLE_LAZY_COLLECTIVES", "0") in ("1", "true"),
        latched={name: environment.get(name) for name in LATCHED},
    )


def check_latch() -> None:
    """RuntimeError if somebody has changed what was read at import, and now believes that it holds."""
    for name, value in SETTINGS.latched.items():
        if (now := os.environ.get(name)) != value:
            raise RuntimeError(
                f"{name} was {value!r} when the plugin was imported and is {now!r} now: it is read once, set it before"
            )


SETTINGS = read(os.environ)
