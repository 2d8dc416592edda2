"""The model families that are served: one row each, and only what has been compared with transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers

from models import falcon, mla, rope
from models.errors import ModelRefused

Forward = Callable[..., Any]
"""A module's forward: the module first, then what its transformers class takes."""

TRANSFORMERS = int(transformers.__version__.split(".")[0])
"""The installed major version."""


def _any(config: Any) -> str:
    """No config of the family is refused."""
    return ""


def _own_scale(config: Any) -> str:
    if TRANSFORMERS < 5 and (config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights):
        return "transformers 4 tells no other attention than its own how to scale the scores; use 5 or newer"
    return ""


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
    """The attention of transformers' own that computes the same: its sdpa ignores a soft cap and sinks."""
    forwards: Mapping[str, Forward] = field(default_factory=dict)
    """By class name, the modules whose forward is replaced by one of ours: an attention that calls our kernel."""
    refusal: Callable[[Any], str] = _any
    """Why a model of this config cannot be served, as the end of a sentence; empty if it can."""
    plain: frozenset[str] = frozenset()
    """Linear layers whose weight is read besides being called: they must stay as they are."""
    since: int = 4
    """The first major version of transformers that calls our attention from this family."""


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", "LlamaForCausalLM"),  # and CodeLlama, the distilled DeepSeek-R1s, and many others
        Family("mistral", "MistralForCausalLM"),
        Family("mixtral", "MixtralForCausalLM"),
        Family("qwen2", "Qwen2ForCausalLM"),
        Family("qwen2_moe", "Qwen2MoeForCausalLM", since=5),
        Family("qwen3", "Qwen3ForCausalLM"),
        Family("qwen3_moe", "Qwen3MoeForCausalLM"),
        Family("gemma", "GemmaForCausalLM"),
        Family("gemma2", "Gemma2ForCausalLM", reference="eager"),
        Family("gemma3_text", "Gemma3ForCausalLM"),
        Family("phi", "PhiForCausalLM"),
        Family("phi3", "Phi3ForCausalLM"),
        Family("starcoder2", "Starcoder2ForCausalLM"),
        Family("gpt_bigcode", "GPTBigCodeForCausalLM", "n_layer", "n_positions"),
        Family("gptj", "GPTJForCausalLM", "n_layer", "n_positions", since=5),
        Family("gpt_neox", "GPTNeoXForCausalLM"),
        Family("gpt2", "GPT2LMHeadModel", "n_layer", "n_positions", refusal=_own_scale),
        Family("gpt_oss", "GptOssForCausalLM", reference="eager"),
        Family("opt", "OPTForCausalLM"),
        Family("olmo2", "Olmo2ForCausalLM"),
        Family("granite", "GraniteForCausalLM"),
        Family("cohere", "CohereForCausalLM"),
        Family("stablelm", "StableLmForCausalLM", since=5),
        Family(
            "falcon",
            "FalconForCausalLM",
            forwards={"FalconAttention": falcon.attention},
            refusal=falcon.refusal,
        ),
        Family(
            "deepseek_v2",
            "DeepseekV2ForCausalLM",
            forwards={"DeepseekV2Attention": mla.attention, "DeepseekV2RotaryEmbedding": mla.rotary},
            plain=mla.PLAIN,
        ),
        Family(  # and R1
            "deepseek_v3",
            "DeepseekV3ForCausalLM",
            forwards={"DeepseekV3Attention": mla.attention},
            plain=mla.PLAIN,
        ),
    )
}


def family_of(config: Any) -> Family:
    """The row of a loaded config; ModelRefused with what is supported if there is none that fits."""
    family = FAMILIES.get(config.model_type)
    named = tuple(config.architectures or ())
    if family is None or (named and family.architecture not in named):
        raise ModelRefused(
            f"the architecture {', '.join(named) or config.model_type} is not supported; supported are "
            + ", ".join(sorted(row.architecture for row in FAMILIES.values()))
        )
    if family.since > TRANSFORMERS:
        raise ModelRefused(
            f"{family.architecture} needs transformers {family.since} or newer, "
            f"installed is {transformers.__version__}: older ones bypass our attention"
        )
    if TRANSFORMERS < 5 and rope.unread(config):
        raise ModelRefused(
            f"this config.json was written by transformers 5: {transformers.__version__} would ignore its "
            "rope_parameters; install transformers 5, or say the same by rope_theta and rope_scaling"
        )
    if reason := family.refusal(config):
        raise ModelRefused(f"this {family.architecture} is not served: {reason}")
    return family
