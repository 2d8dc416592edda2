"""The host itself: eager, and synchronous, so that a launched step is a finished one."""

from __future__ import annotations

import platform
import resource
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models import packed
from models.captured import Eager, Strategy
from models.devices.device import Memory
from models.kernels import PLAIN, Kernels
from models.plan import Layout


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that is on the host already."""

    tensor: Tensor

    def result(self) -> Tensor:
        """The tensor."""
        return self.tensor


@dataclass(frozen=True, slots=True)
class Cpu:
    """The host's processors, as models.devices.device.Device asks."""

    name: str = "cpu"
    machine: str = "cpu"
    dtype: torch.dtype = torch.float32
    kv_share: float = 0.4
    """The rest of the machine has other uses for its memory."""
    kv_most: int = 4 << 30
    layout: Layout = "gather"
    """Dense products cost least where memory is a cache away."""
    block_size: int = 16
    prefill_chunk: int = 256
    depth: int = 1
    """A synchronous device gains nothing from a second step in flight."""
    warm_runs: int = 1
    ready_buckets: int = 0
    measured: bool = False
    kernels: Kernels = PLAIN

    @property
    def torch(self) -> torch.device:
        """The torch device."""
        return torch.device("cpu")

    def info(self) -> dict[str, str]:
        """What torch and the machine say."""
        return {"threads": str(torch.get_num_threads()), "machine": platform.machine()}

    def memory(self) -> Memory:
        """Free: without swapping, within the container's limit."""
        fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        sizes = {name: int(size) * 1024 for name, size, *_ in fields}
        free = sizes["MemAvailable:"]
        held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Memory(min(free, _cgroup_room(free)), sizes["MemTotal:"], held, peak)

    def strategy(self) -> Strategy:
        """Nothing is captured."""
        return Eager()

    def adapt(self, model: nn.Module, plain: Container[str]) -> None:
        """Linear layers in oneDNN's order."""
        packed.pack(model, plain)

    def fetch(self, tensor: Tensor) -> Held:
        """It is here."""
        return Held(tensor)

    def step_boundary(self) -> None:
        """Each operation is over when it returns."""

    def synchronize(self) -> None:
        """Each operation is over when it returns."""

    def compile_only(self) -> None:
        """Nothing is compiled."""

    def compilations(self) -> int:
        """Nothing is compiled."""
        return 0

    def seal(self) -> None:
        """Nothing is compiled."""


def _cgroup_room(free: int) -> int:
    """What is left of this control group's memory limit, in bytes; `free` where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else max(0, int(limit) - used)
