"""Tiny random models of every supported family, in Hugging Face format, with a byte-level tokenizer.

`python -m tests.support.tiny FOLDER [FAMILY]` writes one.
"""

from __future__ import annotations

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
_FULL_HEADS = {"num_key_value_heads": 4}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _COMMON),
    "llama3-rope": ("llama", _COMMON | {"rope_scaling": _LLAMA3_ROPE, "rope_theta": 500000.0}),
    "mistral": ("mistral", _COMMON | {"sliding_window": None}),
    "mistral-window": ("mistral", _COMMON | {"sliding_window": 24}),
    "qwen2": ("qwen2", _COMMON),
    "qwen2-window": (
        "qwen2",
        _COMMON | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", _COMMON | {"head_dim": 16}),
    "gemma": ("gemma", _COMMON | {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", _COMMON | {"head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16}),
    "phi": ("phi", _COMMON | _FULL_HEADS),
    "phi3": ("phi3", _COMMON | {"sliding_window": 24}),
    "starcoder2": ("starcoder2", _COMMON | {"sliding_window": 24}),
    "gpt_bigcode": ("gpt_bigcode", _GPT | {"multi_query": True}),
    "gpt_bigcode-heads": ("gpt_bigcode", _GPT | {"multi_query": False}),
    "gpt_neox": ("gpt_neox", _COMMON),
    "gpt2": ("gpt2", _GPT),
    "opt": ("opt", _COMMON | {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "olmo2": ("olmo2", _COMMON),
    "granite": ("granite", _COMMON | {"attention_multiplier": 0.25, "logits_scaling": 2.0}),
    "cohere": ("cohere", _COMMON),
    "xglm": (
        "xglm",
        {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4, "vocab_size": VOCAB}
        | {"max_position_embeddings": 512, **_SPECIAL_IDS, **_UNTIED},
    ),
}
"""Name → (model type, config). `xglm` bypasses the attention interface: it is there to be refused."""


def make(folder: Path, variant: str = "llama", seed: int = 0, **overrides: Any) -> Path:
    """Write a random model of that variant with its tokenizer into the folder."""
    model_type, settings = VARIANTS[variant]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(settings | overrides)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.1)  # zero biases would hide one that is lost
            elif weight.dim() >= 2:
                weight.mul_(3)  # at the usual scale a random model repeats one token
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)
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
