"""The KV pools: one K and one V tensor per attention layer, as buffers of that layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
        self.block_size = 0
        """Tokens of a block, once the pools are allocated."""

    def bytes_per_block(self, block_size: int) -> int:
        """Memory of one block over all layers, in bytes."""
        return block_size * self.dtype.itemsize * sum(shape.values for shape in self.layers.values())

    def allocate(self, num_blocks: int, block_size: int, device: torch.device) -> None:
        """Give every layer its zeroed pools [num_blocks * block_size, heads, dim]; before warm-up, once."""
        self.block_size, tokens = block_size, num_blocks * block_size
        for module, shape in self.layers.items():
            for name, dim in (("k_cache", shape.key_dim), ("v_cache", shape.value_dim)):
                if not dim:
                    continue
                pool = torch.zeros(tokens, shape.heads, dim, dtype=self.dtype, device=device)
                module.register_buffer(name, pool, persistent=False)

    def copy(self, source: Tensor, target: Tensor) -> tuple[()]:
        """Planned: copy blocks [N] int32 onto others, in all layers."""
        token = torch.arange(self.block_size, dtype=torch.int32, device=source.device)
        read, write = ((blocks[:, None] * self.block_size + token).flatten() for blocks in (source, target))
        for pool in self._pools():
            pool.index_copy_(0, write.long(), pool.index_select(0, read))
        return ()

    def scrub(self) -> tuple[()]:
        """Planned: put zeros for what is not a number, so that a block's next owner never multiplies with it.

        Masked positions count for nothing only as long as they are finite.
        """
        for pool in self._pools():
            pool.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        return ()

    def _pools(self) -> Iterator[Tensor]:
        for module in self.layers:
            yield from (getattr(module, name) for name in ("k_cache", "v_cache") if hasattr(module, name))

    def free(self) -> None:
        """Let the pools go."""
        for module in self.layers:
            for name in ("k_cache", "v_cache"):
                if hasattr(module, name):
                    delattr(module, name)
