"""The sampler's noise: a hash of (seed, choice, position, token), the same number on every device.

Half of it is plain Python (64 bits per row and step), half is int32 tensor arithmetic (32 bits per token), where
multiplication wraps and a shift is made logical by a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1


def _mix64(x: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def row_key(seed: int, choice: int, position: int) -> tuple[int, int]:
    """Two int32 that stand for one row's choice of one token."""
    stream = _mix64((seed + 0x9E3779B97F4A7C15) & _MASK64) ^ _mix64((choice << 40) + position + 1)
    key = _mix64((stream + 0x9E3779B97F4A7C15) & _MASK64)
    return _signed(key >> 32), _signed(key & 0xFFFFFFFF)


def _signed(word: int) -> int:
    """The int32 of the same 32 bits."""
    return word - (1 << 32) if word >= 1 << 31 else word


def _mix32(x: Tensor) -> Tensor:
    """A bijection of int32 with little bias (Wellons' lowbias32)."""
    for shift, keep, factor in ((16, 0xFFFF, 0x7FEB352D), (15, 0x1FFFF, -0x7B935975)):
        x = x ^ ((x >> shift) & keep)
        x = x * factor
    return x ^ ((x >> 16) & 0xFFFF)


def gumbel(keys: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise [B, V] in float32 from keys [B, 2] int32; argmax(logits + noise) draws from softmax."""
    token = torch.arange(vocab_size, dtype=torch.int32, device=keys.device)[None, :]
    bits = _mix32(_mix32(token ^ keys[:, :1]) + keys[:, 1:])
    high, low = ((bits >> 16) & 0xFFFF).float(), (bits & 0xFFFF).float()
    # The upper tail decides an argmax: u near 0 keeps its relative precision, so the tail is finer than 2^-24.
    u = (high * 2.0**-16 + (low + 0.5) * 2.0**-32).clamp_max(1 - 2.0**-24)
    return -torch.log(-torch.log1p(-u))
