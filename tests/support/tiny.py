"""Tiny random models of every supported family, in Hugging Face format, with a byte-level tokenizer.

`python -m tests.support.tiny FOLDER [FAMILY]` writes one.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

SPECIALS = ("<pad>", "<s>", "</s>")
VOCAB = len(SPECIALS) + 256
EOS = 2
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)

_SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": 0}
_UNTIED = {"tie_word_embeddings": False}  # tied to its input, a random model repeats what it reads
_COMMON: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": VOCAB, "intermediate_size": 128, "max_position_embeddings": 512, **_SPECIAL_IDS, **_UNTIED,
}  # fmt: skip
_GPT: dict[str, Any] = {
    "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": VOCAB, "n_inner": 128,
    **_SPECIAL_IDS, **_UNTIED,
}  # fmt: skip
_LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_DEEPSEEK_YARN = _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1}
_LONGROPE = {
    "type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
    "long_factor": [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0],
}  # fmt: skip
_FULL_HEADS = {"num_key_value_heads": 4}
_ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_FALCON = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB, "alibi": False,
    "max_position_embeddings": 512, **_SPECIAL_IDS, **_UNTIED,
}  # fmt: skip
_LATENT = _COMMON | _FULL_HEADS | _EXPERTS | {
    "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
    "n_routed_experts": 8, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 1.5, "head_dim": 8, "rope_scaling": _DEEPSEEK_YARN, "rope_theta": 10000.0,
}  # fmt: skip

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _COMMON),
    "llama3-rope": ("llama", _COMMON | {"rope_scaling": _LLAMA3_ROPE, "rope_theta": 500000.0}),
    "llama-biases": ("llama", _COMMON | {"attention_bias": True, "mlp_bias": True}),
    "llama-linear-rope": (  # CodeLlama's base beside the linear scaling of its relatives
        "llama",
        _COMMON | {"rope_theta": 1000000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ),
    "llama-dynamic-rope": ("llama", _COMMON | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "mistral": ("mistral", _COMMON | {"sliding_window": None, "head_dim": 24}),
    "mistral-window": ("mistral", _COMMON | {"sliding_window": 24}),
    "mixtral": (
        "mixtral",
        _COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 24},
    ),
    "qwen2": ("qwen2", _COMMON),
    "qwen2-window": (
        "qwen2",
        _COMMON | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen2-yarn": ("qwen2", _COMMON | {"rope_scaling": _YARN}),
    "qwen2_moe": (
        "qwen2_moe",
        _COMMON
        | _EXPERTS
        | {"num_experts": 8, "shared_expert_intermediate_size": 48, "mlp_only_layers": [0]},
    ),
    "qwen3": ("qwen3", _COMMON | {"head_dim": 24}),
    "qwen3_moe": (
        "qwen3_moe",
        _COMMON
        | _EXPERTS
        | {"num_experts": 8, "head_dim": 24, "norm_topk_prob": True, "mlp_only_layers": [0]},
    ),
    "gemma": ("gemma", _COMMON | {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma2": (
        "gemma2",
        _COMMON
        | _ALTERNATING
        | {
            "head_dim": 24,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 10.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        _COMMON
        | _ALTERNATING
        | {
            "head_dim": 24,
            "query_pre_attn_scalar": 16,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "phi": ("phi", _COMMON | _FULL_HEADS | {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "phi3": ("phi3", _COMMON | {"sliding_window": 24}),
    "phi3-longrope": (
        "phi3",
        _COMMON | {"original_max_position_embeddings": 128, "rope_scaling": _LONGROPE},
    ),
    "starcoder2": ("starcoder2", _COMMON | {"sliding_window": 24}),
    "gpt_bigcode": ("gpt_bigcode", _GPT | {"multi_query": True}),
    "gpt_bigcode-heads": ("gpt_bigcode", _GPT | {"multi_query": False}),
    "gpt_neox": ("gpt_neox", _COMMON),
    "gpt2": ("gpt2", _GPT),
    "gpt_oss": (
        "gpt_oss",
        _COMMON
        | _ALTERNATING
        | {
            "head_dim": 24,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_scaling": _YARN | {"truncate": False, "beta_fast": 32.0, "beta_slow": 1.0},
        },
    ),
    "opt": ("opt", _COMMON | {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "opt-350m": ("opt", _COMMON | {"ffn_dim": 128, "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "olmo2": ("olmo2", _COMMON),
    "granite": (
        "granite",
        _COMMON
        | {
            "attention_multiplier": 0.25,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "embedding_multiplier": 2.0,
        },
    ),
    "cohere": ("cohere", _COMMON | {"logit_scale": 0.25, "use_qk_norm": True}),
    "stablelm": ("stablelm", _COMMON | {"use_qkv_bias": True, "qk_layernorm": True}),
    "falcon-7b": ("falcon", _FALCON | {"multi_query": True, "parallel_attn": True, "bias": False}),
    "falcon-40b": (
        "falcon",
        _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "parallel_attn": True, "bias": True},
    ),
    "falcon-11b": (
        "falcon",
        _FALCON
        | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "bias": False},
    ),
    "falcon-serial": ("falcon", _FALCON | {"multi_query": False, "parallel_attn": False, "bias": True}),
    "falcon-alibi": ("falcon", _FALCON | {"alibi": True}),
    "deepseek_v2": ("deepseek_v2", _LATENT | {"topk_method": "group_limited_greedy"}),
    "deepseek_v2-lite": ("deepseek_v2", _LATENT | {"topk_method": "greedy", "q_lora_rank": None}),
    "deepseek_v3": ("deepseek_v3", _LATENT | {"norm_topk_prob": True, "attention_bias": True}),
    "deepseek_v3-halves": (
        "deepseek_v3",
        _LATENT | {"q_lora_rank": None, "rope_interleave": False, "rope_scaling": None},
    ),
    "gptj": ("gptj", _GPT | {"rotary_dim": 8}),
    "xglm": (
        "xglm",
        {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4, "vocab_size": VOCAB}
        | {"max_position_embeddings": 512, **_SPECIAL_IDS, **_UNTIED},
    ),
}
"""Name → (model type, config) with the features of its family switched on, at a size where they matter."""

REFUSED = {"xglm", "falcon-alibi"}
"""The first bypasses the attention interface, the other has positions that our attention does not know."""


def config_of(variant: str, **overrides: Any) -> Any:
    """The config of that variant."""
    model_type, settings = VARIANTS[variant]
    settings = copy.deepcopy(settings | overrides)  # configs edit what they are given
    return AutoConfig.for_model(model_type, **settings)


def model_of(variant: str, seed: int = 0, **overrides: Any) -> Any:
    """A random model of that variant."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(variant, **overrides))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and not name.endswith("bias"):
                weight.mul_(3)  # at the usual scale a random model repeats one token
            else:  # biases of 0, norms of 1 and equal sinks would hide one that is lost
                weight.add_(torch.randn_like(weight), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):
                buffer.normal_(0, 0.1)
    model.generation_config.eos_token_id = EOS
    return model.eval()


def make(folder: Path, variant: str = "llama", seed: int = 0, **overrides: Any) -> Path:
    """Write a random model of that variant with its tokenizer into the folder."""
    model_of(variant, seed, **overrides).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer: every byte a token, so that every text has ids and every id has bytes."""
    vocab = {
        token: index for index, token in enumerate((*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())))
    }
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "llama"))
