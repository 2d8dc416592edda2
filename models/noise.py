"""The sampler's noise: a hash of (seed, position, token), the same 32 bits on every device.

Half of it is made on the host (64 bits per row and step), half is int32 tensor arithmetic (32 bits per token), where
multiplication wraps and a shift is made logical by a mask. A device's logarithm may round the noise differently in
the last place, as its kernels do the logits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix64(x: Words) -> Words:
    """SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def row_keys(seeds: Words, positions: Words) -> NDArray[np.int32]:
    """Two int32 [B, 2] that stand for each row's choice of one token; products wrap at 64 bits."""
    keys = _mix64((_mix64(seeds + _GOLDEN) ^ _mix64(positions + np.uint64(1))) + _GOLDEN)
    halves = np.stack([keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)], axis=1)
    return halves.astype(np.uint32).view(np.int32)


def _mix32_(x: Tensor) -> Tensor:
    """A bijection of int32 with little bias (Wellons' lowbias32), in place."""
    for shift, keep, factor in ((16, 0xFFFF, 0x7FEB352D), (15, 0x1FFFF, -0x7B935975)):
        x ^= (x >> shift).bitwise_and_(keep)
        x *= factor
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x


def hashed(keys: Tensor, tokens: Tensor) -> Tensor:
    """32 random bits [B, N] int32 from keys [B, 2] and tokens [1 or B, N], both int32."""
    bits = _mix32_(tokens ^ keys[:, :1])
    bits += keys[:, 1:]
    return _mix32_(bits)


def noise_bits(keys: Tensor, vocab_size: int) -> Tensor:
    """32 random bits [B, V] int32 from keys [B, 2] int32."""
    return hashed(keys, torch.arange(vocab_size, dtype=torch.int32, device=keys.device)[None, :])


def gumbel(keys: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise [B, V] in float32 from keys [B, 2] int32; argmax(logits + noise) draws from softmax."""
    bits = noise_bits(keys, vocab_size)
    # The upper tail decides an argmax: u near 0 keeps its relative precision, so the tail is finer than 2^-24.
    u = (bits & 0xFFFF).float().add_(0.5).mul_(2.0**-32)
    u += (bits >> 16).bitwise_and_(0xFFFF).float().mul_(2.0**-16)
    u.clamp_max_(1 - 2.0**-24)
    return u.neg_().log1p_().neg_().log_().neg_()
