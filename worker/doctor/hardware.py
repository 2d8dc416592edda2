"""Driver, cards and who holds them, shared memory, limits."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from models.environment import GAUDI_PLUGIN
from worker.card import Card, CardError, Kind, in_words
from worker.card_lock import holder
from worker.discovery import find, run
from worker.doctor.finding import Finding, error, ok, warning
from worker.doctor.machine import Machine, numbers

DRIVER: dict[Kind, tuple[str, ...]] = {
    "hpu": ("hl-smi", "-Q", "driver_version", "-f", "csv,noheader"),
    "cuda": ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
}
MEND: dict[Kind, str] = {
    "hpu": "Load the driver (modprobe habanalabs), and start a container with --runtime=habana.",
    "cuda": "Load the driver (modprobe nvidia), and start a container with --gpus all.",
    "cpu": "Start the worker without --cards.",
}
IDLE = 0.05
"""Of a card's memory: what its firmware takes; more is somebody's."""
LEAST_SHM = 1 << 30
LEAST_FILES = 4096
SHM = Path("/dev/shm")


def driver(machine: Machine) -> Iterator[Finding]:
    """Whether the driver's tool is there and talks, and whether a card is left unused."""
    if machine.kind in DRIVER:
        yield from _driver_of(machine)
    elif machine.tools and not machine.chosen:
        tools = " and ".join(sorted(machine.tools))
        text = f"{tools} is here, and what is installed runs on the CPU only."
        yield warning(
            "driver", text, f"Install torch for the cards, with {GAUDI_PLUGIN} or CUDA, or set DEVICE=cpu."
        )
    else:
        yield ok("driver", "None is needed for the CPU.")


def _driver_of(machine: Machine) -> Iterator[Finding]:
    command = DRIVER[machine.kind]
    try:
        version = (run(command).split() or ["of an unknown version"])[0]
    except CardError as refused:
        yield error("driver", str(refused), MEND[machine.kind])
        return
    yield ok("driver", f"{command[0]} answers, driver {version}.")
    plugin = machine.versions.get(GAUDI_PLUGIN, "")
    if machine.kind == "hpu" and plugin and numbers(version)[:2] != numbers(plugin)[:2]:
        text = f"The driver is {version}, and {GAUDI_PLUGIN} is {plugin}."
        yield warning("driver", text, "Install driver and image of one release.")


def cards(machine: Machine, locks: Path) -> Iterator[Finding]:
    """Each card, what it is and who holds it."""
    try:
        found = find(machine.kind, machine.variables)
    except CardError as refused:
        yield error("cards", str(refused), MEND[machine.kind])
        return
    if machine.kind == "cpu":
        yield _cores(found.cards, locks)
        return
    for card in found.cards:
        yield _card(card, locks)
    if found.hidden:
        yield ok("cards", f"Hidden by the environment: {in_words(found.hidden)}.")
    yield from _outdated(machine, found.cards)
    for line in found.unreadable:
        yield warning(
            "cards", f"The tool says: {line}", "That card cannot be used: reset it, or restart the machine."
        )


def _card(card: Card, locks: Path) -> Finding:
    try:
        who = holder(locks, card)
    except CardError as refused:
        return error("cards", str(refused), "Give LOCK_DIR a folder that every worker may write to.")
    text = f"{card.kind} {card.id}: {', '.join(_described(card))}"
    if card.kind == "hpu" and card.generation is None:
        return warning(
            "cards", f"{text}.", "Its generation is not known here: memory and FP8 range are not checked."
        )
    if who:
        return ok("cards", f"{text}; held by process {who}.")
    if card.used is not None and card.memory and card.used > IDLE * card.memory:
        return warning(
            "cards", f"{text}; in use, and by no worker of ours.", "Stop what runs there: hl-smi shows it."
        )
    return ok("cards", f"{text}; free.")


def _described(card: Card) -> Iterator[str]:
    generation = card.generation
    yield f"{generation.name} ({card.name})" if generation else card.name
    if card.memory:
        yield f"{card.memory / (1 << 30):.0f} GB"
    if card.used is not None:
        yield f"{card.used / (1 << 30):.1f} GB used"
    if generation:
        yield f"FP8 to {generation.fp8_max:g}" if generation.fp8_max else "no FP8"
        if generation.last_software:
            yield f"software up to {generation.last_software}"
    if card.celsius is not None:
        yield f"{card.celsius:.0f} °C"


def _cores(cores: tuple[Card, ...], locks: Path) -> Finding:
    text = f"{len(cores)} cores: {in_words(core.id for core in cores)}"
    try:
        held = {core.id: who for core in cores if (who := holder(locks, core))}
    except CardError as refused:
        return error("cards", str(refused), "Give LOCK_DIR a folder that every worker may write to.")
    by = ", ".join(
        f"{who} ({in_words(c for c, w in held.items() if w == who)})" for who in sorted(set(held.values()))
    )
    return ok("cards", f"{text}; held by process {by}." if by else f"{text}; free.")


def _outdated(machine: Machine, cards: tuple[Card, ...]) -> Iterator[Finding]:
    """Whether the software still knows the cards."""
    plugin = machine.version(GAUDI_PLUGIN)
    for generation in {card.generation for card in cards if card.generation}:
        if generation.last_software and plugin[:2] > numbers(generation.last_software):
            text = f"{generation.name} is supported up to {generation.last_software}, and {GAUDI_PLUGIN} is newer."
            yield error("cards", text, f"Use an image of release {generation.last_software}.")


def shared_memory(folder: Path = SHM) -> Iterator[Finding]:
    """What the cards of one model talk through on the host."""
    try:
        stat = os.statvfs(folder)
    except OSError as absent:
        yield warning(
            "shm", f"{folder} cannot be used: {absent.strerror}.", "Models over several cards need it."
        )
        return
    size = stat.f_frsize * stat.f_blocks
    if size < LEAST_SHM:
        text = f"{folder} has {size >> 20} MiB: too little for models over several cards."
        yield warning("shm", text, "Start the container with --ipc=host, or --shm-size=8g.")
    else:
        yield ok("shm", f"{folder} has {size / (1 << 30):.1f} GiB.")


def limits(machine: Machine) -> Iterator[Finding]:
    """What the kernel allows a process."""
    files, locked = (resource.getrlimit(r)[0] for r in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK))
    unlimited = resource.RLIM_INFINITY
    if files != unlimited and files < LEAST_FILES:
        text = f"A process may open {files} files: each stream that a gateway holds is one."
        yield warning("limits", text, "Raise it: ulimit -n 65536, or --ulimit nofile=65536 of a container.")
    elif machine.kind == "hpu" and locked != unlimited:
        text = f"A process may lock {locked >> 10} KiB of memory, and the driver pins what it copies from."
        yield warning("limits", text, "Raise it: ulimit -l unlimited, or --ulimit memlock=-1 of a container.")
    else:
        may_open = "any number of" if files == unlimited else files
        may_lock = "any amount" if locked == unlimited else f"{locked >> 10} KiB"
        yield ok("limits", f"A process may open {may_open} files and lock {may_lock} of memory.")
