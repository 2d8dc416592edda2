"""The card's memory: the host's, seen through tensors whose device is the card. Counted, and limited."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .settings import SETTINGS

_EXTENSION, _CPU = 12, 1
"""Device types of DLPack."""
_DEVICE_TYPE = 8
"""Where a DLTensor has it: after the pointer to the data."""
_LINE = 128
"""Bytes; every allocation is a multiple."""

_pointer: Any = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_export: Any = torch._C._to_dlpack
_import: Any = torch._C._from_dlpack
_HOST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def _elsewhere(tensor: Tensor, device_type: int) -> Tensor:
    """The same memory as a tensor of another device: a DLPack capsule that says so."""
    capsule = _export(tensor)
    at = _pointer(capsule, b"dltensor")
    ctypes.c_int32.from_address(at + _DEVICE_TYPE).value = device_type
    ctypes.c_int32.from_address(at + _DEVICE_TYPE + 4).value = 0
    out: Tensor = _import(capsule)
    return out


def is_card(value: object) -> bool:
    """Whether it is a tensor of the card."""
    return isinstance(value, Tensor) and value.device.type == "hpu"


def on_host(card: Tensor) -> Tensor:
    """The card's tensor as the host's, sharing memory: what a kernel computes with."""
    return _elsewhere(card, _CPU)


def as_is(op: Any, *args: Any) -> Any:
    """Run the host's kernel on the card's tensors themselves: one that touches sizes and no numbers, as views do."""
    return op.redispatch(_HOST_KEYS, *args)


@dataclass(frozen=True, slots=True)
class Base:
    """The tensor that an allocation was made for."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    size: int
    """Bytes."""
    number: int
    """No other allocation of the process ever has it, as it may have the address."""


class Memory:
    """The pool: who allocated what."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = self.most_in_use = self.allocated = self.freed = self.largest = 0
        self.allocations = self.frees = 0
        self._bases: dict[int, Base] = {}
        self.newest = 0
        """Number of the latest allocation."""
        self.on_free: list[Callable[[int], None]] = []
        """Called with the address of what is freed."""

    def adopt(self, host: Tensor) -> Tensor:
        """A tensor of the host that nobody else has, as a new one of the card; RuntimeError if it does not fit."""
        card = _elsewhere(host, _EXTENSION)
        storage = card.untyped_storage()
        self.newest += 1
        base = Base(tuple(card.shape), card.stride(), storage.nbytes(), self.newest)
        self._account(storage.data_ptr(), base)
        weakref.finalize(storage, self._free, storage.data_ptr()).atexit = False
        return card

    def give(self, card: Tensor, host: Tensor) -> None:
        """The card's tensor has from now on that memory: an output whose size was not known before."""
        new = self.adopt(host)
        to: Any = torch.ops.aten.set_.source_Storage_storage_offset
        as_is(to, card, new.untyped_storage(), new.storage_offset(), new.shape, new.stride())

    def rebase(self, card: Tensor) -> None:
        """The allocation is this tensor's from now on."""
        if (base := self._bases.get(address(card))) is not None:
            self._bases[address(card)] = replace(base, shape=tuple(card.shape), stride=card.stride())

    def is_view(self, card: Tensor) -> bool:
        """Whether it looks at the allocation otherwise than the tensor that it was made for."""
        base = self._bases.get(address(card))
        return base is not None and (tuple(card.shape), card.stride()) != (base.shape, base.stride)

    def number(self, card: Tensor) -> int:
        """Of the allocation that it lies in; 0 if it has none."""
        base = self._bases.get(address(card))
        return base.number if base else 0

    def _account(self, at: int, base: Base) -> None:
        if not base.size:
            return
        size = -(-base.size // _LINE) * _LINE
        if self.in_use + size > self.limit:
            raise RuntimeError(
                f"Allocation failed for size::{size} ({size / 2**20:.1f} MB): Out of memory, "
                f"{self.in_use} of {self.limit} bytes are in use"
            )
        self._bases[at] = base
        self.allocations += 1
        self.allocated += size
        self.in_use += size
        self.largest = max(self.largest, size)
        self.most_in_use = max(self.most_in_use, self.in_use)

    def _free(self, at: int) -> None:
        base = self._bases.pop(at, None)
        if base is None:
            return
        size = -(-base.size // _LINE) * _LINE
        self.frees += 1
        self.freed += size
        self.in_use -= size
        for call in self.on_free:
            call(at)

    def reset_peak(self) -> None:
        """The most in use is what is in use now."""
        self.most_in_use = self.in_use

    def reset_accumulated(self) -> None:
        """Forget what was ever allocated and freed."""
        self.allocated = self.freed = self.allocations = self.frees = 0

    def stats(self) -> dict[str, int]:
        """As `torch.hpu.memory_stats` has them."""
        return {
            "Limit": self.limit,
            "InUse": self.in_use,
            "MaxInUse": self.most_in_use,
            "NumAllocs": self.allocations,
            "NumFrees": self.frees,
            "ActiveAllocs": len(self._bases),
            "MaxAllocSize": self.largest,
            "TotalSystemAllocs": self.allocations,
            "TotalSystemFrees": self.frees,
            "TotalActiveAllocs": len(self._bases),
        }


def address(card: Tensor) -> int:
    """Of the allocation that it lies in; 0 if it has none."""
    return card.untyped_storage().data_ptr()


MEMORY = Memory(SETTINGS.memory)
