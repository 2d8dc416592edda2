"""What a graph compiler would see of a piece of code, on a device that has none."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Signatures(TorchDispatchMode):
    """Every operation's name, shapes, dtypes, strides and Python numbers: what a graph compiler would compile."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[object] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add((str(func), self.of(args), self.of(sorted((kwargs or {}).items()))))
        return func(*args, **(kwargs or {}))

    def of(self, value: Any) -> object:
        """What of a value a compiler would specialise on."""
        if isinstance(value, torch.Tensor):
            return tuple(value.shape), value.dtype, tuple(value.stride())
        if isinstance(value, (list, tuple)):
            return tuple(map(self.of, value))
        return value if isinstance(value, (int, float, bool, str, type(None))) else str(value)
