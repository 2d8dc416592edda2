"""RoPE scalings that follow the longest sequence of a batch, settled at load: no row depends on its neighbours.

Up to the length that a model was trained for, dynamic NTK and longrope are plain. Beyond it transformers computes
other frequencies, on the host and for the whole batch, which also makes every cached key wrong.
"""

from __future__ import annotations

from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def scaling_of(config: Any) -> dict[str, Any]:
    """The config's RoPE scaling by whichever name its transformers has; empty if it has none."""
    return getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}


def unread(config: Any) -> bool:
    """Whether the config names a RoPE in transformers 5's words, which 4 keeps but does not act on."""
    stated = dict(getattr(config, "rope_parameters", None) or {})
    kind = stated.pop("rope_type", "default")
    return kind != "default" or any(getattr(config, name, None) != value for name, value in stated.items())


def settle(model: Any, longest: int, wanted: int) -> int:
    """Fix the frequencies for serving `wanted` tokens (0: nobody said); the longest sequence they are right for.

    longrope has two sets: short factors up to the trained length, which are served unless more is wanted; then its
    long ones serve every sequence, as vLLM does: the short ones among them differ from transformers, slightly.
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "dynamic":
            module.rope_type = "default"
        elif kind == "longrope":
            module.rope_type = "default"
            trained = _trained_length(module.config)
            if wanted > trained:
                _use_long_factors(module, trained)
            else:
                longest = min(longest, trained)
    return longest


def _trained_length(config: Any) -> int:
    name = "original_max_position_embeddings"
    length: int = getattr(config, name, None) or scaling_of(config).get(name, config.max_position_embeddings)
    return length


def _use_long_factors(module: Any, trained: int) -> None:
    compute = ROPE_INIT_FUNCTIONS["longrope"]
    module.inv_freq, _ = compute(module.config, module.inv_freq.device, seq_len=trained + 1)
