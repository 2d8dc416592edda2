"""Which cards this machine has, as their drivers' own tools and the kernel say. No driver's library is loaded."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from models.environment import GAUDI_PLUGIN
from worker.card import Card, CardError, Kind

HL_SMI = ("hl-smi", "-Q", "index,module_id,bus_id,memory.used,temperature.aip,name", "-f", "csv,noheader")
NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=index,uuid,name,memory.total",
    "--format=csv,noheader,nounits",
)
PATIENCE = 60.0
"""Seconds for a tool to answer: a driver that nobody has open wakes every card first."""

MIB = 1 << 20

VISIBLE: dict[Kind, str] = {"hpu": "HABANA_VISIBLE_MODULES", "cuda": "CUDA_VISIBLE_DEVICES"}
"""What hides cards from a process, though its tool shows them."""


@dataclass(frozen=True, slots=True)
class Found:
    """The cards of one kind."""

    cards: tuple[Card, ...]
    """Those that may be used, by id."""
    unreadable: tuple[str, ...] = ()
    """What the tool said of others, line by line: cards in reset, or of a kind that it cannot describe."""
    hidden: tuple[int, ...] = ()
    """The ids of those that the environment hides."""


def kind_of(device: str) -> Kind:
    """The kind of card that DEVICE means; `auto` is what is installed here: software and its driver's tool."""
    match device:
        case "cpu" | "cuda" | "hpu":
            return device
    if shutil.which("hl-smi") and installed(GAUDI_PLUGIN):
        return "hpu"
    if shutil.which("nvidia-smi") and not installed("torch").endswith("+cpu"):
        return "cuda"
    return "cpu"


def installed(distribution: str) -> str:
    """Its version, empty if it is not installed; nothing is imported."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def find(kind: Kind, variables: Mapping[str, str]) -> Found:
    """The cards of that kind; CardError says why they cannot be seen. `variables` are the environment's."""
    match kind:
        case "cpu":
            return Found(cores())
        case "hpu":
            found = parse_hl_smi(run(HL_SMI))
        case "cuda":
            found = parse_nvidia_smi(run(NVIDIA_SMI))
    found = hide(found, variables.get(VISIBLE[kind], ""))
    if not found.cards:
        raise CardError(_none(kind, found))
    return found


def cores() -> tuple[Card, ...]:
    """The cores that this process may use; CardError where they cannot be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        raise CardError("Sets of cores need Linux: start the worker without --cards.")
    return tuple(Card(kind="cpu", id=core) for core in sorted(os.sched_getaffinity(0)))


def run(command: Sequence[str]) -> str:
    """What a tool says; CardError if it is not there, fails, or does not answer."""
    tool = command[0]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except FileNotFoundError:
        raise CardError(
            f"{tool} is not on PATH: install the card's driver, or choose another DEVICE."
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CardError(f"{tool} does not answer: {error}.") from None
    if ran.returncode:
        said = (ran.stderr.strip() or ran.stdout.strip() or "it says nothing").splitlines()[0]
        raise CardError(f"{tool} fails with status {ran.returncode}: {said}")
    return ran.stdout


def parse_hl_smi(text: str) -> Found:
    """The answer to HL_SMI."""
    rows, unreadable = _table(text, columns=6, number=1)
    cards = []
    for _, module, bus, used, celsius, name in rows:
        card = Card(
            kind="hpu", id=int(module), name=name, bus=bus, used=_bytes(used), celsius=_number(celsius)
        )
        cards.append(replace(card, memory=card.generation.memory if card.generation else 0))
    return _found(cards, unreadable)


def parse_nvidia_smi(text: str) -> Found:
    """The answer to NVIDIA_SMI; without a card it is a sentence."""
    rows, unreadable = _table(text, columns=4, number=0)
    cards = [
        Card(kind="cuda", id=int(index), uuid=uuid, name=name, memory=_bytes(memory) or 0)
        for index, uuid, name, memory in rows
    ]
    return _found(cards, unreadable)


def hide(found: Found, visible: str) -> Found:
    """Without the cards that the variable leaves out; empty or `all`: it leaves out none."""
    if visible in ("", "all"):
        return found
    # A UUID may be cut short as long as it is clear which one is meant.
    names = [name.strip() for name in visible.split(",")]
    shown = [
        card
        for card in found.cards
        if any(name == str(card.id) or (name and card.uuid.startswith(name)) for name in names)
    ]
    return Found(tuple(shown), found.unreadable, tuple(card.id for card in found.cards if card not in shown))


def _found(cards: list[Card], unreadable: list[str]) -> Found:
    return Found(tuple(sorted(cards, key=lambda card: card.id)), tuple(unreadable))


def _none(kind: Kind, found: Found) -> str:
    if found.hidden:
        return f"{VISIBLE[kind]} hides every {kind} card."
    if found.unreadable:
        return f"No {kind} card can be used: its tool says {found.unreadable[0]!r}."
    return f"The driver is there, but no {kind} card."


def _table(text: str, columns: int, number: int) -> tuple[list[list[str]], list[str]]:
    """(the rows that describe a card, its number in column `number`; the other lines)."""
    rows, others = [], []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        cells = [cell.strip() for cell in row]
        if len(cells) == columns and cells[number].isdecimal():
            rows.append(cells)
        elif cells:
            others.append(", ".join(cells))
    return rows, others


def _number(text: str) -> float | None:
    match = re.match(r"\d+(\.\d+)?", text)
    return float(match[0]) if match else None


def _bytes(text: str) -> int | None:
    """`768 MiB`, or with `nounits` 768."""
    number = _number(text)
    return None if number is None else round(number * MIB)
