"""The devices a model can run on, behind one small interface."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models import packed
from models.captured import Eager, Strategy
from models.errors import ModelRefused
from models.plan import Layout

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True, slots=True)
class Cpu:
    """The host itself: eager, and synchronous, so that a launched step is a finished one."""

    name: str = "cpu"
    dtype: torch.dtype = torch.float32
    """What a model is loaded in when nobody says."""
    kv_share: float = 0.4
    """Of the free memory, what the KV pools may take: the rest of the machine has other uses for it."""
    kv_most: int = 4 << 30
    """Most bytes of KV pools that are taken unasked."""
    layout: Layout = "gather"
    """How decode reads the pools unless told otherwise: dense products cost least where memory is a cache away."""
    depth: int = 1
    """Steps in flight unless told otherwise: a synchronous device gains nothing from a second."""

    @property
    def torch(self) -> torch.device:
        """The torch device."""
        return torch.device("cpu")

    def strategy(self) -> Strategy:
        """How programs are captured here."""
        return Eager()

    def adapt(self, model: nn.Module, plain: Container[str]) -> None:
        """Bring the loaded model's layers into the form that is fastest here, all but the linear ones named `plain`."""
        packed.pack(model, plain)

    def free_memory(self) -> int:
        """Bytes that can be allocated now without swapping, within the container's limit."""
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return min(free, _cgroup_room(free))


def _cgroup_room(free: int) -> int:
    """What is left of this control group's memory limit, in bytes; `free` where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else max(0, int(limit) - used)


def device_of(name: str) -> Cpu:
    """The device by name, or the default; ModelRefused if it is not one of ours."""
    if name not in ("", "cpu"):
        raise ModelRefused(f"the device {name!r} is not supported by this installation; use cpu")
    return Cpu()


def dtype_of(name: str, device: Cpu) -> torch.dtype:
    """The dtype by name, or the device's own; ModelRefused for any other."""
    if not name:
        return device.dtype
    if name not in DTYPES:
        raise ModelRefused(f"the dtype {name!r} is not known; use one of {', '.join(DTYPES)}")
    return DTYPES[name]
