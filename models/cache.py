"""The KV pools: one K and one V tensor per attention layer, as buffers of that layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer keeps of a token."""

    heads: int
    """K/V heads."""
    key_dim: int
    value_dim: int
    """0: the layer keeps no values of their own, they are part of its keys."""

    @property
    def values(self) -> int:
        """Numbers kept per token."""
        return self.heads * (self.key_dim + self.value_dim)


class KvPools:
    """The layers that own a pool, and what they hold.

    Pools are buffers of their attention modules, so that identical layers share one compiled graph, and whole
    tensors rather than views of one, so that an in-place write never goes through a view.
    """

    def __init__(self, layers: dict[nn.Module, LayerShape], dtype: torch.dtype) -> None:
        self.layers = layers
        self.dtype = dtype

    def bytes_per_block(self, block_size: int) -> int:
        """Memory of one block over all layers, in bytes."""
        return block_size * self.dtype.itemsize * sum(shape.values for shape in self.layers.values())

    def allocate(self, num_blocks: int, block_size: int, device: torch.device) -> None:
        """Give every layer its zeroed pools [num_blocks * block_size, heads, dim]; before warm-up, once."""
        tokens = num_blocks * block_size
        for module, shape in self.layers.items():
            for name, dim in (("k_cache", shape.key_dim), ("v_cache", shape.value_dim)):
                if not dim:
                    continue
                pool = torch.zeros(tokens, shape.heads, dim, dtype=self.dtype, device=device)
                module.register_buffer(name, pool, persistent=False)

    def scrub(self) -> tuple[()]:
        """Planned: put zeros for what is not a number, so that a block's next owner never multiplies with it.

        Masked positions count for nothing only as long as they are finite.
        """
        for module in self.layers:
            for name in ("k_cache", "v_cache"):
                if hasattr(module, name):
                    getattr(module, name).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        return ()

    def free(self) -> None:
        """Let the pools go."""
        for module in self.layers:
            for name in ("k_cache", "v_cache"):
                if hasattr(module, name):
                    delattr(module, name)
