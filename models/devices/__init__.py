"""The devices that a model can run on, behind one small interface; chosen by name, or by what is installed."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from models.devices import cuda
from models.devices.cpu import Cpu
from models.devices.cuda import Cuda
from models.devices.device import Device, Fetched, Memory
from models.errors import ModelRefused

__all__ = ["DTYPES", "Cpu", "Cuda", "Device", "Fetched", "Memory", "device_of", "dtype_of"]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def device_of(name: str) -> Device:
    """The device of that name, or the best there is; ModelRefused if it cannot be used. Takes the card."""
    match name or _installed():
        case "cpu":
            return Cpu()
        case "cuda":
            if not cuda.present():
                raise ModelRefused("the device cuda is not to be had: this torch sees no NVIDIA card")
            return Cuda()
        case "hpu":
            return _gaudi()
    raise ModelRefused(f"the device {name!r} is not known; use cpu, cuda or hpu")


def _installed() -> str:
    if find_spec("habana_frameworks"):
        return "hpu"
    return "cuda" if cuda.present() else "cpu"


def _gaudi() -> Device:
    """Imported here alone: what it imports takes over much of torch."""
    if not find_spec("habana_frameworks"):
        raise ModelRefused(
            "the device hpu needs Habana's torch and its habana_frameworks, which come with Intel's Gaudi images"
        )
    try:
        from models.devices import hpu

        return hpu.open_card()
    except (ImportError, AssertionError, RuntimeError) as error:
        raise ModelRefused(f"the Gaudi card cannot be used; `sagrada doctor` says more ({error})") from error


def dtype_of(name: str, device: Device) -> torch.dtype:
    """The dtype by name, or the device's own; ModelRefused for any other."""
    if not name:
        return device.dtype
    if name not in DTYPES:
        raise ModelRefused(f"the dtype {name!r} is not known; use one of {', '.join(DTYPES)}")
    return DTYPES[name]
