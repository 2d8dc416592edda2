"""Waiting for what processes do, and looking at which of them run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONG = 60.0
"""Seconds; generous, since a test machine may be busy: nothing takes so long when all is well."""


def until(
    holds: Callable[[], Any],
    within: float = LONG,
    what: str = "it",
    *,
    despite: type[Exception] | tuple[type[Exception], ...] = (),
) -> Any:
    """Poll until `holds` is truthy and return its value; AssertionError naming `what` after `within` seconds.

    Errors of the kinds `despite` count as not yet.
    """
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if value := holds():
                return value
        except despite:
            pass
        time.sleep(0.02)
    raise AssertionError(f"waited {within:g} s for {what}")


def children(pid: int) -> list[int]:
    """The processes that a process has started, from any of its threads."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, listing.read_text().split())
        except OSError:  # the thread ended while we looked
            continue
    return found


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
