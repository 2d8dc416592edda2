"""What can be known of the CUDA device without a card: its arithmetic, its accounts, and the order of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from models import kernels
from models.captured import Outputs
from models.devices import cuda
from models.devices.cuda import Cuda, CudaGraphs

ROUNDING = {torch.float64: 0.0, torch.float32: 1e-6, torch.bfloat16: 2**-7}
"""Relative: of bfloat16 one unit in the last place."""


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_norm_is_the_plain_one_but_for_rounding(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 5, 64, dtype=dtype), torch.randn(64, dtype=dtype)
    expected = kernels.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(cuda.rms_norm(x, weight, 1e-5), expected, rtol=ROUNDING[dtype], atol=0)


def test_the_step_that_the_pool_keeps_is_not_for_the_warm_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights 50, a step of 7, allocator's reserve 60, driver's free 30."""
    said = {
        "mem_get_info": (30, 100),
        "memory_allocated": 50,
        "memory_reserved": 60,
        "max_memory_allocated": 57,
    }
    for name, value in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    memory = Cuda().memory()
    assert (memory.free, memory.total, memory.held, memory.peak) == (40, 100, 50, 50 + 2 * 7)


class Stream:
    """That does nothing but wait, and be told apart."""

    def __init__(self) -> None:
        self.waited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)


class Card:
    """Takes the place of what CudaGraphs calls of torch.cuda, and writes down what runs where."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.default = Stream()
        self.stream = self.default
        self.pools: list[str] = []
        self.runs: list[tuple[Stream, bool]] = []
        self.replays = 0
        self._capturing = False
        card = self

        class Graph:
            def replay(self) -> None:
                card.replays += 1

        replaced: dict[str, Any] = {
            "Stream": Stream, "CUDAGraph": Graph, "graph_pool_handle": lambda: "pool",
            "current_stream": lambda: card.stream, "stream": card.on, "graph": card.capture,
        }  # fmt: skip
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    @contextmanager
    def capture(self, graph: object, pool: str, stream: Stream) -> Iterator[None]:
        self.pools.append(pool)
        self._capturing = True
        with self.on(stream):
            yield
        self._capturing = False

    def function(self, x: Tensor) -> Outputs:
        self.runs.append((self.stream, self._capturing))
        return (x + 1,)


def test_programs_are_run_and_captured_on_one_stream_and_from_one_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Card(monkeypatch)
    strategy = CudaGraphs()
    replays = [strategy.capture(card.function, {"x": torch.zeros(n)}) for n in (1, 2)]
    streams = {stream for stream, _ in card.runs}
    assert len(streams) == 1
    (aside,) = streams
    assert aside is not card.default
    assert [capturing for _, capturing in card.runs] == 2 * [False, False, True]
    assert card.pools == ["pool", "pool"]
    assert aside.waited == [card.default] * 2
    assert card.default.waited == [aside] * 2
    assert replays[1]()[0] is replays[1]()[0]
    assert (card.replays, len(card.runs)) == (2, 6)
