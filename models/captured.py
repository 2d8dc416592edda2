"""One discipline for every device: fixed input buffers, a program captured once per bucket, a sealed table of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from itertools import count
from types import FunctionType, MethodType
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
Function = Callable[..., Outputs]
"""A planned function: tensors in by keyword, tensors out, nothing but shapes decides what it does."""
Key = TypeVar("Key", bound=Hashable)


class Strategy(Protocol):
    """How a device turns a function over fixed buffers into something to replay."""

    def fill(self, buffer: Tensor, value: Tensor) -> None:
        """Begin to copy the value, which the caller does not change any more, into a fixed buffer."""
        buffer.copy_(value, non_blocking=True)

    def capture(self, function: Function, inputs: Mapping[str, Tensor]) -> Callable[[], Outputs]:
        """A call that reads `inputs` as they then are; its outputs hold until the next replay of any program."""


class Eager(Strategy):
    """Calls the function: the CPU, or any device while debugging."""

    def capture(self, function: Function, inputs: Mapping[str, Tensor]) -> Callable[[], Outputs]:
        """The call itself."""
        return lambda: function(**inputs)


class Compiled(Strategy):
    """torch.compile with fixed shapes: one whole graph per program, compiled at its first call."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def capture(self, function: Function, inputs: Mapping[str, Tensor]) -> Callable[[], Outputs]:
        """The call of the compiled function."""
        compiled: Function = torch.compile(
            with_own_code(function), backend=self._backend, fullgraph=True, dynamic=False
        )
        return lambda: compiled(**inputs)


_copies = count()


def with_own_code(function: Function) -> Function:
    """The function with a code object of its own: Dynamo keeps what it compiled by code object, and few of each."""
    plain: Any = function.__func__ if isinstance(function, MethodType) else function
    code = plain.__code__.replace(co_name=f"{plain.__code__.co_name}_{next(_copies)}")
    copy = FunctionType(code, plain.__globals__, code.co_name, plain.__defaults__, plain.__closure__)
    return MethodType(copy, function.__self__) if isinstance(function, MethodType) else copy


class Captured:
    """A program of one bucket: `run` fills the fixed inputs and replays."""

    def __init__(
        self, name: str, function: Function, inputs: Mapping[str, Tensor], strategy: Strategy
    ) -> None:
        self.name = name
        self.inputs = dict(inputs)
        self._fill = strategy.fill
        self._replay = strategy.capture(function, self.inputs)

    def run(self, **values: Tensor) -> Outputs:
        """Run on these values; each must have exactly the planned shape and dtype (else ValueError)."""
        if values.keys() != self.inputs.keys():
            raise ValueError(f"{self.name} takes {sorted(self.inputs)}, not {sorted(values)}")
        return self.again(**values)

    def again(self, **values: Tensor) -> Outputs:
        """As `run`, but what is left out is what it was in the run before."""
        for key, value in values.items():
            buffer = self.inputs[key]
            if value.shape != buffer.shape or value.dtype != buffer.dtype:
                raise ValueError(
                    f"{self.name}: {key} is {tuple(value.shape)} {value.dtype}, "
                    f"planned {tuple(buffer.shape)} {buffer.dtype}"
                )
            self._fill(buffer, value)
        return self._replay()


class Programs(Generic[Key]):
    """Buckets in, programs out; after `seal` an unplanned bucket is an error, never a compilation."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._programs: dict[Key, Captured] = {}
        self._planned = -1

    def build(self, key: Key, function: Function, inputs: Mapping[str, Tensor]) -> None:
        """Capture the program of a bucket; counted as a compilation if the plan was sealed before."""
        self._programs[key] = Captured(str(key), function, inputs, self._strategy)

    def seal(self) -> None:
        """From now on every new program is one too many."""
        self._planned = len(self._programs)

    def clear(self) -> None:
        """Let all programs go."""
        self._programs.clear()

    def __contains__(self, key: Key) -> bool:
        return key in self._programs

    @property
    def since_seal(self) -> int:
        """Programs built after the seal."""
        return max(0, len(self._programs) - self._planned) if self._planned >= 0 else 0

    def __getitem__(self, key: Key) -> Captured:
        """The program of a planned bucket; KeyError for any other."""
        try:
            return self._programs[key]
        except KeyError:
            raise KeyError(f"{key} is not in the plan of {len(self._programs)} programs") from None
