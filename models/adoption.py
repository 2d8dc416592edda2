"""A device's kernels in the place of what transformers' layers compute, wherever they compute just that.

What a layer computes is read off its code: two classes whose forwards are the same code over the same names compute the
same. A layer of other code, or with a forward of its own, stays as it is; the plain form is always right.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from transformers.models.llama import modeling_llama as llama

from models.kernels import PLAIN, Kernels
from models.moe import StackedExperts

ROTATION = "apply_rotary_pos_emb"
"""What transformers' attentions call by this global name, for queries and keys at once."""


def adopt(model: nn.Module, kernels: Kernels) -> dict[str, int]:
    """Put the kernels in; how many modules took each, by its name. Nothing for the plain ones."""
    taken = {"rms_norm": 0, "rotate": 0, "experts": 0}
    if kernels is PLAIN:
        return taken
    for module in model.modules():
        taken["rms_norm"] += _norm(module, kernels)
        taken["rotate"] += _rotation(module, kernels)
        taken["experts"] += _experts(module, kernels)
    return taken


def _same(code: CodeType, other: CodeType) -> bool:
    """Whether they do the same to the same names; line numbers and names of variables are nothing to it."""
    parts = ("co_code", "co_names", "co_argcount", "co_kwonlyargcount")
    if any(getattr(code, part) != getattr(other, part) for part in parts):
        return False
    return [_constant(each) for each in code.co_consts] == [_constant(each) for each in other.co_consts]


def _constant(value: Any) -> Any:
    """Docstrings say nothing of what is computed."""
    return str if isinstance(value, str) else value


def _code(function: Callable[..., Any]) -> CodeType:
    code: CodeType = inspect.unwrap(function).__code__
    return code


_LLAMA_NORM = _code(llama.LlamaRMSNorm.forward)
_LLAMA_ROTATION = _code(llama.apply_rotary_pos_emb)


def _norm(module: Any, kernels: Kernels) -> bool:
    """A norm with Llama's forward."""
    if "forward" in module.__dict__ or not _same(_code(type(module).forward), _LLAMA_NORM):
        return False

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        return kernels.rms_norm(hidden_states, self.weight, self.variance_epsilon)

    module.forward = MethodType(forward, module)
    return True


def _rotation(module: Any, kernels: Kernels) -> bool:
    """An attention that calls Llama's rotation: its forward again, with another function under that name."""
    forward = inspect.unwrap(type(module).forward)
    if "forward" in module.__dict__ or ROTATION not in forward.__code__.co_names:
        return False
    rotation = forward.__globals__.get(ROTATION)
    if rotation is None or not _same(_code(rotation), _LLAMA_ROTATION):
        return False

    def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.rotate(q, cos, sin), kernels.rotate(k, cos, sin)

    # Without `__name__`: by it Dynamo would look names up in the module, where the old function is.
    scope = {name: value for name, value in forward.__globals__.items() if name != "__name__"}
    copy = FunctionType(
        forward.__code__,
        scope | {ROTATION: turn},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    copy.__kwdefaults__ = forward.__kwdefaults__
    module.forward = MethodType(copy, module)
    return True


def _experts(module: Any, kernels: Kernels) -> bool:
    """Experts gated by SiLU, without biases, that go through `dense_experts`."""
    if getattr(type(module), "_apply_gate", None) not in _gates():
        return False
    if module.has_bias or module.is_transposed or type(module.act_fn).__name__ not in _SILU:
        return False
    module.fused = kernels.experts
    return True


_SILU = ("SiLU", "SiLUActivation")
"""The classes of it that transformers has had."""


def _gates() -> tuple[Any, ...]:
    """The functions that halve, activate the one half, and multiply it with the other."""
    try:
        from transformers.integrations.moe import _default_apply_gate
    except ImportError:  # transformers 4 has no registry of experts
        return (StackedExperts._apply_gate,)
    return (StackedExperts._apply_gate, _default_apply_gate)
