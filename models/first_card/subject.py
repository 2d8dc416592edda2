"""What is checked, and what a check says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from models.devices import Device
from models.step import LoadSpec


@dataclass(frozen=True, slots=True)
class Subject:
    """One card, and a model for it."""

    device: Device
    spec: LoadSpec


@dataclass(frozen=True, slots=True)
class Seen:
    """What one check saw."""

    good: bool
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)
    tokens: tuple[tuple[int, ...], ...] = ()
    """Of each prompt, what was written: for checks that are to write the same."""


Check: TypeAlias = Callable[[Subject], Seen]
