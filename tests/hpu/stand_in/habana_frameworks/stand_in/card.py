"""Which card a process has: one, taken when it first needs it, and nobody else's until it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .settings import BINDING, SETTINGS


class Seat:
    """The process's place at a card."""

    def __init__(self) -> None:
        self.module = -1
        """The card's module id; -1: none is taken yet."""
        self._process = 0
        self._binding: dict[str, str | None] = {}
        self._lock = -1

    @property
    def inherited(self) -> bool:
        """Whether the card is a parent's, who has forked this process after taking it."""
        return self.module >= 0 and os.getpid() != self._process

    def touch(self) -> None:
        """Take a card if there is none yet; RuntimeError if none can be had, or it belongs to the process's parent."""
        if self.module < 0:
            self._take()
        if self.inherited:
            raise RuntimeError(
                "the card was initialised before the fork: a child cannot use it, start it anew"
            )

    def check_binding(self) -> None:
        """RuntimeError if somebody has changed what the card was taken by, and now believes to have another."""
        for name, value in self._binding.items():
            if os.environ.get(name) != value:
                raise RuntimeError(f"{name} has changed since module {self.module} was taken: set it before")

    def _take(self) -> None:
        if SETTINGS.device_type == "gaudi":
            raise RuntimeError(f"release {SETTINGS.release} does not support this device: synDeviceGaudi")
        for module in _candidates():
            if (lock := _lock(SETTINGS.locks, module)) >= 0:
                self.module, self._lock, self._process = module, lock, os.getpid()
                self._binding = {name: os.environ.get(name) for name in BINDING}
                return
        raise RuntimeError("synapse: Device acquire failed. Busy or not there: no card could be taken")


def visible() -> list[int]:
    """The modules that the process may take, in ascending order."""
    named = os.environ.get("HABANA_VISIBLE_MODULES", "")
    every = range(SETTINGS.cards)
    return sorted({int(module) for module in named.split(",")} & {*every}) if named else list(every)


def _candidates() -> list[int]:
    """The modules to try, in order: the one that is named; others only if nobody has said which are visible."""
    wanted = os.environ.get("HLS_MODULE_ID", "")
    if not wanted:
        return visible()
    named = [int(wanted)] if int(wanted) in visible() else []
    restricted = bool(os.environ.get("HABANA_VISIBLE_MODULES"))
    if restricted or SETTINGS.cards < int(os.environ.get("WORLD_SIZE", "1")):
        return named
    return [*named, *visible()]


def _lock(folder: Path, module: int) -> int:
    """The lock's descriptor, which no child inherits; -1 if somebody has it."""
    fd = os.open(folder / f"hpu-stand-in-{module}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd


SEAT = Seat()
