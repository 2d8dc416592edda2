"""Cards and groups of them: what a worker may be bound to, and what its engine must find set to be bound to it.

A card is one accelerator, or one core of a CPU. A group is what one worker takes: as many accelerators as its model
spans, or a set of cores. Nothing here looks at the machine: `worker.discovery` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal, TypeAlias

from wire.errors import SagradaError

Kind: TypeAlias = Literal["cpu", "cuda", "hpu"]

ALL = "all"
"""Every card that this process may use."""

GAUDI_GROUPS: dict[int, tuple[frozenset[int], ...]] = {
    2: tuple(frozenset({first, first + 1}) for first in (0, 2, 4, 6)),
    4: (frozenset(range(4)), frozenset(range(4, 8))),
    8: (frozenset(range(8)),),
}
"""Cards of a model → the sets of module ids that it may span: those that Intel's links join."""


class CardError(SagradaError):
    """The cards cannot be used as asked; the message says which there are, or who holds them."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of Gaudi."""

    name: str
    products: tuple[str, ...]
    """How the names of its products begin, as hl-smi gives them: mezzanine cards, PCIe cards."""
    memory: int
    """Of the card, in bytes; a process can use a little less."""
    fp8_max: float | None
    """The largest number of its E4M3; None: it has no FP8."""
    strategies: tuple[Literal["lazy", "compile"], ...]
    """How graphs can be had: HPU Graphs of the lazy mode, torch.compile without it."""
    last_software: str = ""
    """The last release that supports it; empty: the newest does."""


GENERATIONS = (
    Generation("Gaudi 1", ("HL-20",), 32 << 30, None, ("lazy",), "1.21"),
    Generation("Gaudi 2", ("HL-22", "HL-28"), 96 << 30, 240.0, ("lazy", "compile")),
    Generation("Gaudi 3", ("HL-32", "HL-33"), 128 << 30, 448.0, ("lazy", "compile")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card as its driver's tool describes it."""

    kind: Kind
    id: int
    """What people call it by: module id (Gaudi), index (CUDA), number of the core (CPU)."""
    name: str = ""
    """The product."""
    uuid: str = ""
    """CUDA: what stays the same when indices change."""
    bus: str = ""
    """Gaudi: its PCI address."""
    memory: int = 0
    """Bytes; 0: not known."""
    used: int | None = None
    """Bytes of it that are taken; None: not known."""
    celsius: float | None = None

    @property
    def key(self) -> str:
        """The same for every name of the card, and for no other card of the machine."""
        return f"{self.kind}-{self.uuid or self.id}"

    @property
    def generation(self) -> Generation | None:
        """Of a Gaudi; None: no Gaudi, or one that is not known here."""
        return next((g for g in GENERATIONS if self.kind == "hpu" and self.name.startswith(g.products)), None)


@dataclass(frozen=True, slots=True)
class Group:
    """The cards of one worker."""

    cards: tuple[Card, ...]

    @property
    def kind(self) -> Kind:
        """Of all its cards."""
        return self.cards[0].kind

    @property
    def ids(self) -> tuple[int, ...]:
        """Its cards' names, ascending."""
        return tuple(card.id for card in self.cards)

    @property
    def text(self) -> str:
        """The group as CARD names it."""
        return in_words(self.ids)

    @property
    def label(self) -> str:
        """The group in the worker's name and log."""
        return f"{self.kind}-{self.text.replace(',', '+')}"

    @property
    def cores(self) -> frozenset[int]:
        """The cores that the engine may run on; empty: any."""
        return frozenset(self.ids if self.kind == "cpu" else ())

    def environment(self, rank: int = 0) -> dict[str, str]:
        """What the engine of that rank must find set before torch is imported."""
        match self.kind:
            case "hpu":
                # Both: with the first alone, a card that cannot be had is silently replaced by any that is free.
                modules = ",".join(str(id) for id in self.ids)
                return {"HLS_MODULE_ID": str(self.ids[rank]), "HABANA_VISIBLE_MODULES": modules}
            case "cuda":
                return {"CUDA_VISIBLE_DEVICES": ",".join(card.uuid or str(card.id) for card in self.cards)}
            case "cpu":
                return {"OMP_NUM_THREADS": str(len(self.cards))}


def divide(text: str, found: Sequence[Card], size: int = 1) -> list[Group]:
    """The groups that `--cards` asks for, each of `size` accelerators or one set of cores; CardError if it cannot be.

    `found` are the cards that there are, all of one kind. `0,1` are two cards, `0-3` four; of a CPU each item is one
    set of cores. `all` are all, of a CPU each core by itself.
    """
    if not found:
        raise CardError("There is no card to run on.")
    if found[0].kind == "cpu":
        items = (
            [[card] for card in found] if text == ALL else [_pick(item, found) for item in text.split(",")]
        )
        _once(list(chain.from_iterable(items)))
        return [_group(item) for item in items]
    cards = list(found) if text == ALL else _pick(text, found)
    _once(cards)
    if found[0].kind == "hpu" and size > 1:
        return _gaudi_groups(cards, size)
    if len(cards) % size:
        raise CardError(
            f"{len(cards)} cards cannot be divided into groups of {size}: {in_words(ids(cards))}."
        )
    return [_group(cards[first : first + size]) for first in range(0, len(cards), size)]


def group_of(text: str, found: Sequence[Card], size: int = 1) -> Group:
    """The one group that CARD names; CardError if it is none, or another number of accelerators than `size`."""
    if not found:
        raise CardError("There is no card to run on.")
    cards = _pick(text, found)
    _once(cards)
    if found[0].kind == "cpu":
        return _group(cards)
    if len(cards) != size:
        count = "one card" if size == 1 else f"{size} cards"
        raise CardError(f"{text!r} names {len(cards)} cards, and this worker's model takes {count}.")
    return divide(text, found, size)[0]


def in_words(ids: Iterable[int]) -> str:
    """Numbers as `--cards` takes them: `0,2-5`."""
    ordered = sorted(ids)
    breaks = [i for i, (a, b) in enumerate(pairwise(ordered), 1) if b != a + 1]
    runs = [ordered[a:b] for a, b in pairwise([0, *breaks, len(ordered)])]
    return ",".join(_run(run) for run in runs if run)


def ids(cards: Iterable[Card]) -> list[int]:
    """The names of cards."""
    return [card.id for card in cards]


def _run(run: list[int]) -> str:
    # A pair with a comma: that is how groups of two are written everywhere.
    return f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run))


def _group(cards: Iterable[Card]) -> Group:
    return Group(tuple(sorted(cards, key=lambda card: card.id)))


def _pick(text: str, found: Sequence[Card]) -> list[Card]:
    """The cards that `0,2-3` or a UUID name, in that order."""
    by_name = {name: card for card in found for name in (str(card.id), card.uuid) if name}
    names = list(chain.from_iterable(_expand(item.strip()) for item in text.split(",")))
    if missing := [name for name in names if name not in by_name]:
        thing = "core" if found[0].kind == "cpu" else f"{found[0].kind} card"
        raise CardError(f"There is no {thing} {missing[0]!r} here: there are {in_words(ids(found))}.")
    return [by_name[name] for name in names]


def _expand(item: str) -> list[str]:
    first, dash, last = item.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        return [item]
    if int(first) > int(last) or int(last) > 65535:
        raise CardError(f"{item!r} is no range of cards: write the lower number first, as in 0-3.")
    return [str(id) for id in range(int(first), int(last) + 1)]


def _once(cards: Sequence[Card]) -> None:
    if twice := [card for card in cards if cards.count(card) > 1]:
        raise CardError(f"{twice[0].kind} card {twice[0].id} is named twice: one worker has it alone.")


def _gaudi_groups(cards: list[Card], size: int) -> list[Group]:
    """Only whole groups that are linked: {0,1}, never {1,2}."""
    if size not in GAUDI_GROUPS:
        raise CardError(f"A model spans 1, 2, 4 or 8 Gaudi cards, not {size}.")
    named = {card.id: card for card in cards}
    whole = [group for group in GAUDI_GROUPS[size] if group <= named.keys()]
    if left := named.keys() - frozenset().union(*whole):
        groups = ", ".join("{" + in_words(group) + "}" for group in GAUDI_GROUPS[size])
        raise CardError(
            f"Cards {in_words(left)} make no group of {size}: Gaudi cards are joined as {groups} and not otherwise."
        )
    return [_group(named[id] for id in group) for group in whole]
