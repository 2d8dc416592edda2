"""Linear layers on the CPU with their weights in oneDNN's blocked order, put there once at load.

`F.linear` reads a plain matrix, which for the few rows of a decode step is up to twice as slow. The operations are
those that torch's own compiler uses for frozen models; they have no public name, so a test holds them.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)
"""What oneDNN multiplies; other models keep their plain layers."""

ROWS = 16
"""The number of rows that the order is chosen for. Measured from 1 to 256 rows, it is the best or near it for all."""


class PackedLinear(nn.Module):
    """In place of an `nn.Linear`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        ops: Any = torch.ops.mkldnn
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight: Tensor = ops._reorder_linear_weight(linear.weight.detach(), ROWS)
        """Opaque: it has a dtype and a shape, and nothing but oneDNN can read it."""
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] times the weight's transpose, plus bias: [..., out]."""
        ops: Any = torch.ops.mkldnn
        out: Tensor = ops._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


def available(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor can."""
    ops: Any = torch.ops.mkldnn
    if (
        dtype not in DTYPES
        or not torch.backends.mkldnn.is_available()
        or not hasattr(ops, "_linear_pointwise")
    ):
        return False
    return dtype is not torch.bfloat16 or bool(ops._is_mkldnn_bf16_supported())


def pack(model: nn.Module, plain: Container[str] = ()) -> int:
    """Pack the model's linear layers but those named `plain`, whose weight is read as well; how many were packed.

    The plain weight is let go, unless the embedding has it too.
    """
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and name not in plain and available(child.weight.dtype)
    ]
    for parent, name, child in layers:
        setattr(parent, name, PackedLinear(child))
    return len(layers)
