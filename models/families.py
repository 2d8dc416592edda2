"""The model families that are served: one row each, and only what has been compared with transformers' `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.errors import ModelRefused


@dataclass(frozen=True, slots=True)
class Family:
    """What we need to know of a model type beyond what its config says."""

    model_type: str
    """`model_type` of config.json."""
    architecture: str
    """The class that writes text; another head (a classifier, a reward model) is refused."""
    layers: str = "num_hidden_layers"
    """The config's name for the number of layers; each must call our attention exactly once per forward."""
    positions: str = "max_position_embeddings"
    """The config's name for the longest sequence."""
    reference: str = "sdpa"
    """The attention of transformers' own that computes the same: its sdpa ignores a soft cap."""


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", "LlamaForCausalLM"),
        Family("mistral", "MistralForCausalLM"),
        Family("qwen2", "Qwen2ForCausalLM"),
        Family("qwen3", "Qwen3ForCausalLM"),
        Family("gemma", "GemmaForCausalLM"),
        Family("gemma2", "Gemma2ForCausalLM", reference="eager"),
        Family("phi", "PhiForCausalLM"),
        Family("phi3", "Phi3ForCausalLM"),
        Family("starcoder2", "Starcoder2ForCausalLM"),
        Family("gpt_bigcode", "GPTBigCodeForCausalLM", "n_layer", "n_positions"),
        Family("gpt_neox", "GPTNeoXForCausalLM"),
        Family("gpt2", "GPT2LMHeadModel", "n_layer", "n_positions"),
        Family("opt", "OPTForCausalLM"),
        Family("olmo2", "Olmo2ForCausalLM"),
        Family("granite", "GraniteForCausalLM"),
        Family("cohere", "CohereForCausalLM"),
    )
}

HOST_ROPE = frozenset({"dynamic", "longrope"})
"""RoPE scalings that read the longest position of a batch on the host: a row would depend on its neighbours."""


def family_of(config: Any) -> Family:
    """The row of a loaded config; ModelRefused with what is supported if there is none that fits."""
    family = FAMILIES.get(config.model_type)
    named = tuple(config.architectures or ())
    if family is None or (named and family.architecture not in named):
        raise ModelRefused(
            f"the architecture {', '.join(named) or config.model_type} is not supported; supported are "
            + ", ".join(sorted(row.architecture for row in FAMILIES.values()))
        )
    _check_rope(config)
    return family


def _check_rope(config: Any) -> None:
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in HOST_ROPE:
        raise ModelRefused(
            f"the model's RoPE scaling {kind!r} is not supported: it depends on the longest sequence of a batch; "
            "use a variant of the model without it (for Phi-3: the 4k models)"
        )
