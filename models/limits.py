"""The limits that a worker serves with: what was asked for, else what the model and the memory allow. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from models.plan import LAYOUTS, Layout, Limits
from models.step import LoadSpec

SLOTS = 16
MAX_TOTAL_TOKENS = 4096
"""Longest sequence that is served unasked: a longer plan would warm up for long on a CPU."""
PREFILL_BATCH = 8


class Device(Protocol):
    """A device, as far as limits depend on it."""

    @property
    def kv_share(self) -> float:
        """Of the free memory, what the KV pools may take."""

    @property
    def kv_most(self) -> int:
        """Most bytes of KV pools that are taken unasked."""

    @property
    def layout(self) -> Layout:
        """How decode reads the pools unless told otherwise."""

    @property
    def block_size(self) -> int:
        """Tokens per KV block unless told otherwise."""

    @property
    def prefill_chunk(self) -> int:
        """Most prompt tokens of one step unless told otherwise."""


def choose_limits(
    spec: LoadSpec, max_position: int, bytes_per_block: Callable[[int], int], device: Device, free: int
) -> Limits:
    """Limits for the spec, a KV block costing `bytes_per_block(block_size)`; ValueError if it asks too much.

    `free` bytes of the device's memory are left for the pools and what a step computes with.
    """
    if spec.max_total_tokens > max_position:
        raise ValueError(
            f"max_total_tokens ({spec.max_total_tokens}) exceeds the {max_position} positions that the model knows"
        )
    slots = spec.slots or SLOTS
    size = spec.block_size or device.block_size
    total = spec.max_total_tokens or min(max_position, MAX_TOTAL_TOKENS)
    blocks = spec.kv_blocks or _affordable(slots * -(-total // size) + 1, bytes_per_block(size), device, free)
    if not spec.max_total_tokens:
        total = max(2, min(total, (blocks - 1) * size))
    longest = spec.max_input_tokens or total - 1
    batch, layout = (1, "gather") if spec.deterministic else (PREFILL_BATCH, device.layout)
    return Limits(
        slots=slots,
        block_size=size,
        num_blocks=blocks,
        max_input_tokens=longest,
        max_total_tokens=total,
        prefill_chunk=min(spec.prefill_chunk or device.prefill_chunk, total * slots),
        prefill_batch=min(spec.prefill_batch or batch, slots),
        layout=_layout_of(spec.layout or layout),
        deterministic=spec.deterministic,
    )


def _layout_of(name: str) -> Layout:
    for layout in LAYOUTS:
        if name == layout:
            return layout
    raise ValueError(f"the layout {name!r} is not known: use one of {', '.join(LAYOUTS)}")


def _affordable(wanted: int, block_bytes: int, device: Device, free: int) -> int:
    """As many blocks as every slot could fill, but no more than the memory has room for."""
    budget = min(int(free * device.kv_share), device.kv_most)
    return min(wanted, budget // block_bytes)
