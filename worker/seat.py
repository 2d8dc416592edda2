"""A worker's seat: its card, held against every other worker, and what its engine needs to run there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from worker.card import CardError, Group, group_of
from worker.card_lock import CardLock, default_folder
from worker.config import Config, variables
from worker.discovery import find, kind_of


@dataclass(frozen=True, slots=True)
class Seat:
    """What one worker is bound to; the default: to nothing."""

    device: str = ""
    """The kind of its cards; empty: as configured."""
    label: str = ""
    """Its cards in the worker's name and log."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its engine must find set."""
    cores: frozenset[int] = frozenset()
    """Where its engine may run; empty: anywhere."""
    locks: tuple[CardLock, ...] = ()
    """Held by the worker itself: an engine comes and goes, and the card stays the worker's."""


def take(config: Config) -> Seat:
    """The seat that CARD names; CardError if there is no such card, or another worker has it."""
    if not config.card:
        return Seat()
    kind = kind_of(config.device)
    group = group_of(config.card, find(kind, variables()).cards, config.num_shard)
    return Seat(
        device=kind,
        label=group.label,
        environment=group.environment(),
        cores=group.cores,
        locks=lock(group, folder_of(config)),
    )


def folder_of(config: Config) -> Path:
    """Where the locks of this machine's cards are."""
    return Path(config.lock_dir) if config.lock_dir else default_folder()


def lock(group: Group, folder: Path) -> tuple[CardLock, ...]:
    """All cards of the group or none; CardTaken. In their order: of two that want the same, one gets all."""
    held: list[CardLock] = []
    try:
        for card in group.cards:
            held.append(CardLock(folder, card))
    except CardError:
        for one in held:
            one.release()
        raise
    return tuple(held)
