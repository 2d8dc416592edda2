"""NVIDIA cards: CUDA graphs, one per bucket, over one pool of memory."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import kernels
from models.captured import Function, Outputs, Strategy
from models.devices.device import Memory
from models.kernels import Kernels
from models.plan import Layout

WARM_RUNS = 2
"""Runs before a capture: libraries choose their algorithms and allocate their workspaces in the first."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As models.kernels.rms_norm, in one launch instead of eight, if both are of one dtype.

    Below float32 the product with the weight is rounded once, not twice; above it Llama rounds to float32.
    """
    if x.dtype is torch.float64:
        return kernels.rms_norm(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


KERNELS = Kernels(rms_norm=rms_norm)


class CudaGraphs(Strategy):
    """Graphs that share one pool: what one holds between its operations, and what it gives, any other may overwrite.

    They may, in any order, because they are replayed one after another on one stream and none reads what another has
    left in the pool: inputs, weights, KV pools and the sampler's state lie outside, and an output is copied out, on
    that stream, before the next replay is asked for.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        """Of warm runs and captures alike: cuBLAS has a workspace for each stream, and one that it first needs in a
        capture would come from the pool, and stay there when the graphs of a trial are long gone."""

    def fill(self, buffer: Tensor, value: Tensor) -> None:
        """From the host by way of pinned memory, which torch does not reuse before the copy is over."""
        if value.device.type == "cpu":
            value = value.pin_memory()
        buffer.copy_(value, non_blocking=True)

    def capture(self, function: Function, inputs: Mapping[str, Tensor]) -> Callable[[], Outputs]:
        """Run it, and record it, on a stream aside: the default one cannot be captured."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_RUNS):
                function(**inputs)
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            outputs = function(**inputs)

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


class Copied:
    """A tensor that was copied into pinned memory of its own."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record()

    def result(self) -> Tensor:
        """Wait for the copy, and for nothing that was asked for after it."""
        self._done.synchronize()
        return self._host


@dataclass(frozen=True, slots=True)
class Cuda:
    """One card, as models.devices.device.Device asks."""

    name: str = "cuda"
    machine: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    kv_share: float = 0.9
    kv_most: int = 1 << 60
    layout: Layout = "gather"
    block_size: int = 16
    prefill_chunk: int = 2048
    depth: int = 2
    warm_runs: int = 2
    """The first run captures: the second tells how long a step takes."""
    ready_buckets: int = 0
    """A capture takes about a second."""
    measured: bool = True
    kernels: Kernels = field(default=KERNELS, repr=False)

    @property
    def torch(self) -> torch.device:
        """The torch device: the launcher lets the process see one."""
        return torch.device("cuda")

    def info(self) -> dict[str, str]:
        """The card's name and what CUDA torch was built with."""
        return {"card": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}

    def memory(self) -> Memory:
        """Free: what the driver has, and what torch's allocator holds and does not use.

        The peak counts twice what was computed with: the graphs' pool keeps it, and a warm run before the next capture
        takes as much again beside the pool.
        """
        free, total = torch.cuda.mem_get_info()
        held = torch.cuda.memory_allocated()
        spare = torch.cuda.memory_reserved() - held
        step = torch.cuda.max_memory_allocated() - held
        return Memory(free + spare, total, held, held + 2 * step)

    def strategy(self) -> Strategy:
        """CUDA graphs."""
        return CudaGraphs()

    def adapt(self, model: nn.Module, plain: Container[str]) -> None:
        """As it is."""
        model.to(self.torch)

    def fetch(self, tensor: Tensor) -> Copied:
        """On the stream that computes: the next replay waits until the copy has read what it overwrites."""
        return Copied(tensor)

    def step_boundary(self) -> None:
        """A launch begins by itself."""

    def synchronize(self) -> None:
        """Wait for the card."""
        torch.cuda.synchronize()

    def compile_only(self) -> None:
        """A capture takes no time worth saving."""

    def compilations(self) -> int:
        """Captures are counted by the table of programs; nothing else is compiled."""
        return 0

    def seal(self) -> None:
        """The table of programs is sealed by itself."""


def present() -> bool:
    """Whether this torch can use a card of this machine."""
    return torch.cuda.is_available()
