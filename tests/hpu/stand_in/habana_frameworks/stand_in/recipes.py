"""The compiler: what the card runs is a recipe, known by its operations, their shapes, dtypes and Python numbers.

Lazy mode gathers operations until somebody needs them or says `mark_step`; without it each one outside a compiled
region is a recipe of its own. A recipe is never of more than one shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from . import metrics
from .disk import DISK
from .ledger import LEDGER
from .memory import MEMORY, is_card, on_host


class Compiler:
    """All recipes of the process."""

    def __init__(self) -> None:
        self._compiled: set[Hashable] = set()
        self._launched: set[Hashable] = set()
        self.compile_only = False
        """Recipes are made and not launched: what they would give is garbage."""

    def compile(self, key: Hashable, eager: bool = False) -> None:
        """Have a recipe, new or from disk. Of an eager operation neither the metrics nor the disk know."""
        known = key in self._compiled
        found = not known and not eager and DISK.has(key)
        self._compiled.add(key)
        if not eager:
            metrics.record("recipe_cache", "hit" if known or found else "miss")
        if found:
            LEDGER.found(key)
        elif not known:
            if not eager:
                metrics.record("graph_compilation", f"recipe_{len(self._compiled)}")
                DISK.keep(key)
            LEDGER.compiled(key)

    def launch(self, key: Hashable, eager: bool = False) -> None:
        """Run a recipe, compiling it if it is new."""
        self.compile(key, eager)
        if not self.compile_only:
            LEDGER.launched(key, key not in self._launched)
            self._launched.add(key)


class Graph:
    """Operations that will be one recipe, or are: tensors are known by their order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._nodes: list[Hashable] = []
        self.written: set[int] = set()
        """Addresses that it writes."""

    def __bool__(self) -> bool:
        return bool(self._nodes)

    def add(self, name: str, arguments: object, results: object, writes: Iterable[int]) -> None:
        """One more operation."""
        self._nodes.append((name, self.describe(arguments), self.describe(results)))
        self.written.update(writes)

    @property
    def key(self) -> Hashable:
        """What its recipe is known by."""
        return tuple(self._nodes)

    def describe(self, value: object) -> Hashable:
        """What of an argument the compiler specialises on: a number is part of the recipe, in a CPU tensor too."""
        if isinstance(value, Tensor):
            if not is_card(value):
                return ("number", str(value.dtype), repr(value.item()))
            number = self._numbers.setdefault(MEMORY.number(value), len(self._numbers))
            return (number, tuple(value.shape), value.stride(), value.storage_offset(), str(value.dtype))
        if isinstance(value, (list, tuple)):
            return tuple(map(self.describe, value))
        if isinstance(value, dict):
            return tuple((name, self.describe(each)) for name, each in value.items())
        return repr(value)


class Saved:
    """What operations that are not to be launched overwrote: to be put back."""

    def __init__(self) -> None:
        self._newest = MEMORY.newest
        self._before: list[tuple[Tensor, Tensor]] = []

    def keep(self, card: Tensor) -> None:
        """It is about to be written; what was allocated since the beginning is nobody else's."""
        if MEMORY.number(card) <= self._newest:
            host = on_host(card)
            self._before.append((host, host.clone()))

    def restore(self) -> None:
        """Put all back."""
        for to, was in reversed(self._before):
            to.copy_(was)


class Gathering:
    """Where operations go now, unless a graph is being captured."""

    def __init__(self) -> None:
        self.region: Saved | None = None
        """In a compiled region: its operations are one recipe already."""
        self.lazy = Graph()
        """What lazy mode has gathered and not launched."""

    def flush(self) -> None:
        """Launch what was gathered."""
        if self.lazy:
            graph, self.lazy = self.lazy, Graph()
            COMPILER.launch(graph.key)

    @contextmanager
    def inside(self, key: Hashable) -> Iterator[None]:
        """A compiled region: one recipe, of that key; in compile-only mode nothing of it happens."""
        COMPILER.launch(key)
        self.region = Saved()
        try:
            yield
        finally:
            saved, self.region = self.region, None
            if COMPILER.compile_only:
                saved.restore()


COMPILER = Compiler()
GATHERING = Gathering()
