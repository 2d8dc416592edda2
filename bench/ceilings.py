"""What a device can do at most, measured: the rate of a copy within its memory, and of a large matrix product.

And what a Llama's step needs of it at least, whoever computes it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from models.devices import Device

RUNS = 10
"""Of one repeat, between two waits for the device."""


@dataclass(frozen=True)
class Ceilings:
    """Each of some repeats."""

    copy: list[float]
    """Bytes per second, those read and those written."""
    matmul: list[float]
    """Floating-point operations per second."""

    @property
    def bandwidth(self) -> float:
        """The median."""
        return statistics.median(self.copy)

    @property
    def flops(self) -> float:
        """The median."""
        return statistics.median(self.matmul)


def measure(device: Device, dtype: torch.dtype, copied: int, side: int, repeats: int) -> Ceilings:
    """Copy `copied` bytes, and multiply square matrices of that side."""
    here = torch.zeros(copied, dtype=torch.uint8, device=device.torch)
    there = torch.empty_like(here)
    left, right = torch.randn(2, side, side, dtype=dtype, device=device.torch)
    out = torch.empty_like(left)
    return Ceilings(
        rates(device, lambda: there.copy_(here), 2 * copied, repeats),
        rates(device, lambda: torch.matmul(left, right, out=out), 2 * side**3, repeats),
    )


def rates(device: Device, call: Callable[[], object], amount: int, repeats: int) -> list[float]:
    """What a call moves or computes, per second, in each repeat; one more before them is not counted."""
    found = []
    for _ in range(repeats + 1):
        device.synchronize()
        began = time.perf_counter()
        for _ in range(RUNS):
            call()
        device.synchronize()
        found.append(RUNS * amount / (time.perf_counter() - began))
    return found[1:]


@dataclass(frozen=True)
class Work:
    """What the steps of one Llama cannot do without."""

    read: int
    """Bytes of weights that any step reads: all but an input embedding, of which it reads a few rows."""
    cached: int
    """Bytes that the cache keeps of a token."""
    body: int
    """Weights that every token is multiplied with."""
    head: int
    """Weights that only a token is multiplied with whose successor is wanted."""
    width: int
    """Of all queries of a token, over all layers."""

    @classmethod
    def of(cls, model: Any) -> Work:
        """Read off a transformers model."""
        config = model.config
        head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        body = sum(weight.numel() for layer in model.model.layers for weight in layer.parameters())
        read = sum(weight.nbytes for weight in model.parameters())
        if head is not embedding:
            read -= embedding.nbytes
        dim = config.hidden_size // config.num_attention_heads
        return cls(
            read=read,
            cached=2 * config.num_hidden_layers * config.num_key_value_heads * dim * head.dtype.itemsize,
            body=body,
            head=head.numel(),
            width=config.num_hidden_layers * config.hidden_size,
        )

    def decode(self, ceilings: Ceilings, context: float) -> float:
        """Seconds of a decode step over so many cached tokens of all rows, were memory all that it waits for."""
        return (self.read + context * self.cached) / ceilings.bandwidth

    def prefill(self, ceilings: Ceilings, tokens: int) -> float:
        """Seconds to the first token of a prompt, were arithmetic all that it waits for; half the scores are masked."""
        return 2 * (tokens * self.body + self.head + tokens**2 * self.width) / ceilings.flops
