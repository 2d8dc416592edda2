"""What a test asks afterwards: how often the host waited, what was compiled, what fell back to the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Unsealed(RuntimeError):
    """Something happened while serving that only warm-up may do."""


class Ledger:
    """Of one process, since its start."""

    def __init__(self) -> None:
        self.syncs: Counter[str] = Counter()
        """What the host stood still for: item, nonzero, a blocking copy, a stream or the card; not an event."""
        self.copies_out = 0
        """Copies to the host that did not block."""
        self.waits = 0
        """Waits for an event, a stream or the card."""
        self.recipes = 0
        """Recipes compiled."""
        self.from_disk = 0
        """Recipes that an earlier process had compiled."""
        self.cold = 0
        """Recipes launched for the first time: the first launch of each is slow."""
        self.launches = 0
        self.fallbacks: Counter[str] = Counter()
        """Operations that ran on the CPU instead."""
        self._sealed = False

    @contextmanager
    def sealed(self) -> Iterator[None]:
        """Within it a blocking read, a new recipe, a first launch and a fallback are Unsealed."""
        self._sealed = True
        try:
            yield
        finally:
            self._sealed = False

    def synced(self, name: str) -> None:
        """The host waits for the device."""
        self.syncs[name] += 1
        self._refuse("a wait of the host for the card", name)

    def compiled(self, key: object) -> None:
        """A new recipe."""
        self.recipes += 1
        self._refuse("a recipe that warm-up did not show", key)

    def found(self, key: object) -> None:
        """A recipe that was on disk: to read it takes time, too."""
        self.from_disk += 1
        self._refuse("a recipe that warm-up did not show", key)

    def launched(self, key: object, first: bool) -> None:
        """A recipe was launched."""
        self.launches += 1
        if first:
            self.cold += 1
            self._refuse("the first launch of a recipe", key)

    def fell_back(self, name: str) -> None:
        """An operation that the card does not have."""
        self.fallbacks[name] += 1
        self._refuse("an operation on the CPU", name)

    def _refuse(self, what: str, which: object) -> None:
        if self._sealed:
            raise Unsealed(f"{what}, while serving: {which}")


LEDGER = Ledger()
