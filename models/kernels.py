"""The operations that an accelerator fuses, each in plain torch: what every device computes unless it has its own.

A device's kernel has the signature of the plain one, and is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 2048
"""Most rows (tokens times experts) in one product: bounds what a prefill holds beside the weights."""


def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of query [1, H, T, D] over keys [1, Hk, S, D] and values [1, Hk, S, Dv]: [1, H, T, Dv].

    The mask [1, 1, T, S] is added to the scores. Query heads that share a K/V head stand together.
    """
    grouped = query[0].view(keys.shape[1], -1, *query.shape[2:])
    keys, values = (each[0][:, None].expand(-1, grouped.shape[1], -1, -1) for each in (keys, values))
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return out.flatten(0, 1)[None]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., D] over the root of its mean square, times weight [D]; in float32, as Llama does."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [B, H, T, D] turned by angles whose cosine and sine [B, T, D] hold each half twice (Llama, GPT-NeoX)."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine[:, None] + torch.cat((-second, first), dim=-1) * sine[:, None]


def experts(hidden: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The weighted sum [N, D] of what the chosen experts index [N, k], gated by SiLU, make of hidden [N, D].

    `gate_up` is [E, 2 I, D], `down` [E, D, I]. Every expert sees every token, and a weight of 0 drops what is not
    routed: nothing depends on a value.
    """

    def outputs(some: slice) -> Tensor:
        gate, up = torch.matmul(hidden, gate_up[some].transpose(1, 2)).chunk(2, dim=-1)
        return torch.matmul(F.silu(gate) * up, down[some].transpose(1, 2))

    return routed_sum(hidden, index, weights, len(down), outputs)


def routed_sum(
    hidden: Tensor, index: Tensor, weights: Tensor, count: int, outputs: Callable[[slice], Tensor]
) -> Tensor:
    """The sum [N, D] of `outputs` of some of `count` experts, [experts, N, D], weighted by index and weights [N, k]."""
    table = routing_table(index, weights, count)
    at_once = max(1, ROWS // len(hidden))
    out = torch.zeros_like(hidden, dtype=torch.promote_types(hidden.dtype, table.dtype))
    for first in range(0, count, at_once):
        some = slice(first, first + at_once)
        share = table.t()[some, :, None]
        # An expert may overflow on a token that is not its own, and infinity times 0 is no number.
        out += (outputs(some) * share).masked_fill(share == 0, 0).sum(0)
    return out.to(hidden.dtype)


def routing_table(index: Tensor, weights: Tensor, count: int) -> Tensor:
    """The weights [N, k] of the chosen experts index [N, k] as a table [N, count], 0 for the others."""
    return weights.new_zeros(len(weights), count).scatter_add_(1, index, weights)


@dataclass(frozen=True, slots=True)
class Kernels:
    """One device's form of each operation."""

    attention: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor] = attention
    rms_norm: Callable[[Tensor, Tensor, float], Tensor] = rms_norm
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = rotate
    experts: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = experts


PLAIN = Kernels()
"""All of them in torch's own operations."""
