"""The shape auditor: what a graph compiler would see of whole steps, on a device that has none.

While it watches, every operation's signature is kept; what warm-up did not show, a compiling device would compile in
the middle of serving. Whatever would make the host wait for the device counts as well: one read per step is allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from models.plan import Phase
from models.runner import PagedRunner
from models.step import Allowed, Outcome, Pending, Step

WAITING = {
    "_local_scalar_dense", "bincount", "equal", "histc", "is_nonzero", "item", "masked_select", "nonzero",
    "repeat_interleave", "unique_consecutive", "unique_dim", "_unique", "_unique2",
}  # fmt: skip
"""Operations whose result, or its shape, the host must wait for; with a number of its own, `self_int`, none does."""

READS = ("__array__", "__bool__", "__float__", "__index__", "__int__", "cpu", "item", "numpy", "tolist")
"""Methods of a tensor by which the host reads it."""


class Signatures(TorchDispatchMode):
    """Every operation's name, shapes, dtypes, strides and Python numbers: what a graph compiler would compile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.seen: set[object] = set()
        self.waits: Counter[str] = Counter()
        """Operations that would make the host wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add((str(func), self.of(args), self.of(sorted((kwargs or {}).items()))))
        name, _, overload = func.__name__.partition(".")
        by_truth = name in ("index", "index_put", "index_put_") and self._by_truth(args[1])
        if by_truth or (name in WAITING and overload != "self_int"):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))

    def of(self, value: Any) -> object:
        """What of a value a compiler would specialise on."""
        if isinstance(value, torch.Tensor):
            order = "blocked" if value.is_mkldnn else tuple(value.stride())
            return tuple(value.shape), value.dtype, order
        if isinstance(value, (list, tuple)):
            return tuple(map(self.of, value))
        return value if isinstance(value, (int, float, bool, str, type(None))) else str(value)

    @staticmethod
    def _by_truth(indices: Any) -> bool:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


@contextmanager
def _reads(into: Counter[str]) -> Iterator[None]:
    """Count how often the host reads a tensor."""

    def counting(name: str) -> Callable[..., Any]:
        original = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            into[name] += 1
            return original(tensor, *args, **kwargs)

        return read

    methods: dict[str, Any] = {name: counting(name) for name in READS}
    with patch.multiple(torch.Tensor, **methods):
        yield


class Audit:
    """Watches a runner: warm-up first, then every call of `open` and `launch`, and every `read`."""

    def __init__(self, runner: PagedRunner) -> None:
        self.runner = runner
        self._signatures = Signatures()
        self.reads: Counter[str] = Counter()
        """Reads by the host while a step was built and launched."""
        self.reads_of_step: Counter[tuple[Phase, int]] = Counter()
        """How many steps of a phase were read in how many reads."""
        self.steps = 0
        with self._signatures:
            runner.warm_up(lambda *progress: None)
        self.warm = frozenset(self._signatures.seen)
        self._signatures.waits.clear()
        runner.open = self._watched(runner.open)  # type: ignore[method-assign]
        launch = self._watched(runner.launch)
        runner.launch = partial(self._launched, launch)  # type: ignore[method-assign,assignment]

    @property
    def new(self) -> set[object]:
        """Signatures that warm-up did not show."""
        return self._signatures.seen - self.warm

    @property
    def waits(self) -> Counter[str]:
        """Operations in a step that would make the host wait."""
        return self._signatures.waits

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            with self._signatures, _reads(self.reads):
                return call(*args)

        return watched

    def _launched(
        self, launch: Callable[..., Pending], step: Step, allowed: Allowed | None = None
    ) -> Pending:
        self.steps += 1
        return _Read(self, step.bucket.phase, launch(step, allowed))


class _Read:
    """A launched step whose reading is counted."""

    def __init__(self, audit: Audit, phase: Phase, pending: Pending) -> None:
        self._audit, self._phase, self._pending = audit, phase, pending

    def read(self) -> Outcome:
        """What the step gave; that may be asked for while a constrained one is launched, and is no read of that."""
        reads, of_launch = Counter[str](), self._audit.reads.copy()
        with _disable_current_modes(), _reads(reads):
            outcome = self._pending.read()
        self._audit.reads = of_launch
        self._audit.reads_of_step[self._phase, reads.total()] += 1
        return outcome
