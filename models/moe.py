"""Mixtures of experts with static shapes: every expert sees every token, and a weight of 0 drops what is not routed.

transformers' own loops ask on the host which experts were hit. Here nothing depends on a value: padding costs what a
token costs and changes no other row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import kernels

NAME = "sagrada_static"
"""Our name in the registry of experts that transformers has since 5."""


def dense_experts(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of the experts' outputs for hidden [N, D], in place of transformers' forward of them.

    `experts` holds gate_up_proj [E, 2 I, D] and down_proj [E, D, I], or with `is_transposed` their transposes; with
    a device's kernel (models/adoption.py) also `fused`.
    """
    if fused := getattr(experts, "fused", None):
        out: Tensor = fused(hidden, index, weights, experts.gate_up_proj, experts.down_proj)
        return out
    return kernels.routed_sum(
        hidden, index, weights, experts.num_experts, lambda some: _outputs(experts, some, hidden)
    )


def _outputs(experts: Any, some: slice, hidden: Tensor) -> Tensor:
    """What each of some experts makes of hidden [N, D], unweighted: [experts, N, D]."""
    up, down = experts.gate_up_proj[some], experts.down_proj[some]
    if not experts.is_transposed:
        up, down = up.transpose(1, 2), down.transpose(1, 2)
    inner = torch.matmul(hidden, up)
    if experts.has_bias:
        inner = inner + experts.gate_up_proj_bias[some, None]
    out = torch.matmul(experts._apply_gate(inner), down)
    return out + experts.down_proj_bias[some, None] if experts.has_bias else out


class StackedExperts(nn.Module):
    """The experts of a transformers 4 block, each an MLP of its own, as one tensor per projection."""

    is_transposed = False
    has_bias = False

    def __init__(self, experts: Sequence[Any], names: tuple[str, str, str]) -> None:
        super().__init__()
        gate, up, down = names
        self.num_experts = len(experts)
        self.act_fn = experts[0].act_fn
        self.gate_up_proj = _stack([(getattr(mlp, gate), getattr(mlp, up)) for mlp in experts])
        self.down_proj = _stack([(getattr(mlp, down),) for mlp in experts])

    def _apply_gate(self, inner: Tensor) -> Tensor:
        gate, up = inner.chunk(2, dim=-1)
        activated: Tensor = self.act_fn(gate)
        return activated * up

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """As `dense_experts`."""
        return dense_experts(self, hidden, index, weights)


def _stack(experts: Sequence[tuple[nn.Linear, ...]]) -> nn.Parameter:
    """One weight per expert, its linears one above the other."""
    return nn.Parameter(
        torch.stack([torch.cat([part.weight for part in parts]) for parts in experts]), requires_grad=False
    )


def _softmax_block(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Mixtral's and Qwen's block: route by softmax, add what every token shares; also the router's logits."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    logits: Tensor = block.gate(flat)
    weights, index = torch.topk(F.softmax(logits, dim=1, dtype=torch.float), block.top_k, dim=-1)
    if getattr(block, "norm_topk_prob", True):
        weights = weights / weights.sum(dim=-1, keepdim=True)
    out: Tensor = block.experts(flat, index, weights.to(flat.dtype))
    if hasattr(block, "shared_expert"):
        out = out + F.sigmoid(block.shared_expert_gate(flat)) * block.shared_expert(flat)
    return out.view(hidden.shape), logits


def _routed(block: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """DeepSeek's `moe`: its block routes and adds the shared experts by itself."""
    out: Tensor = block.experts(hidden, index, weights)
    return out


@dataclass(frozen=True, slots=True)
class _Block:
    """How a transformers 4 class of block is made static."""

    method: str
    """The method that loops over experts, and what takes its place."""
    instead: Callable[..., Any]
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")


_BLOCKS = {
    "MixtralSparseMoeBlock": _Block("forward", _softmax_block, ("w1", "w3", "w2")),
    "Qwen2MoeSparseMoeBlock": _Block("forward", _softmax_block),
    "Qwen3MoeSparseMoeBlock": _Block("forward", _softmax_block),
    "DeepseekV2MoE": _Block("moe", _routed),
    "DeepseekV3MoE": _Block("moe", _routed),
}


def make_static(model: nn.Module) -> None:
    """Switch the model's experts to the dense form; nothing for a model that has none."""
    if not _register():
        _stack_blocks(model)
        return
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "_experts_implementation"):
            config: Any = module.config
            config._experts_implementation = NAME


def _register() -> bool:
    """Put our experts into transformers' registry; False if it has none."""
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    except ImportError:
        return False
    ALL_EXPERTS_FUNCTIONS.register(NAME, dense_experts)
    return True


def _stack_blocks(model: nn.Module) -> None:
    """Layer by layer, so that no more than one layer's experts are in memory twice."""
    for module in model.modules():
        if row := _BLOCKS.get(type(module).__name__):
            block: Any = module
            block.experts = StackedExperts(block.experts, row.names)
            block.__dict__[row.method] = MethodType(row.instead, block)
