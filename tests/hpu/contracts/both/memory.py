"""8: a pool with a limit, and what it says of itself."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from habana_frameworks.stand_in import SETTINGS

hpu: Any = torch.get_device_module("hpu")
STATS = {
    "Limit", "InUse", "MaxInUse", "NumAllocs", "NumFrees", "ActiveAllocs", "MaxAllocSize", "TotalSystemAllocs",
    "TotalSystemFrees", "TotalActiveAllocs",
}  # fmt: skip


def test_what_is_allocated_is_in_use_until_it_is_freed() -> None:
    gc.collect()
    before = hpu.memory_allocated()
    free, limit = hpu.mem_get_info()
    assert free == limit - before and limit == SETTINGS.memory
    held = torch.zeros(1000, device="hpu")
    view = held[10:20]
    assert hpu.memory_allocated() - before == 4096  # whole lines of 128 bytes
    del held
    assert hpu.memory_allocated() > before
    del view
    assert hpu.memory_allocated() == before


def test_the_peak_is_kept_until_it_is_reset() -> None:
    hpu.reset_peak_memory_stats()
    before = hpu.memory_allocated()
    torch.zeros(10_000, device="hpu")
    assert hpu.max_memory_allocated() >= before + 40_000
    hpu.reset_peak_memory_stats()
    assert hpu.max_memory_allocated() == before


def test_the_stats_have_these_keys() -> None:
    assert hpu.memory_stats().keys() == STATS
    assert hpu.memory_reserved() == hpu.memory_stats()["Limit"]


def test_more_than_there_is_is_out_of_memory() -> None:
    from habana_frameworks.stand_in.memory import MEMORY

    limit, MEMORY.limit = MEMORY.limit, MEMORY.in_use + 1024
    try:
        with pytest.raises(RuntimeError, match="Out of memory"):
            torch.zeros(1024, device="hpu")
        torch.zeros(128, device="hpu")
    finally:
        MEMORY.limit = limit
