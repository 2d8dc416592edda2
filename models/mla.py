"""DeepSeek's multi-head latent attention over its compressed cache: one latent and one rotated key per token.

To the pool this is one K/V head, whose value is the latent part of its key. A decoding query is carried into the space
of latents; a long prefill makes keys and values of every head for as long as it takes, as transformers always does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from models.attention import attend
from models.context import FORWARD
from models.layouts import Packed, Scoring
from models.rope import scaling_of

PLAIN = frozenset({"kv_b_proj"})
"""The layer whose weight is taken apart here."""


def attention(
    module: Any, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
) -> tuple[Tensor, None]:
    """In place of `DeepseekV2Attention.forward` and V3's, for hidden states [B, T, D]."""
    plain, turned = _query(module, hidden_states).tensor_split([module.qk_nope_head_dim], dim=-1)
    latent, key = module.kv_a_proj_with_mqa(hidden_states).tensor_split([module.kv_lora_rank], dim=-1)
    cosine, sine = (each[..., : module.qk_rope_head_dim // 2] for each in position_embeddings)
    neighbours = getattr(module.config, "rope_interleave", True)  # V2 knows no other order
    turned, key = (_turn(x, cosine, sine, neighbours=neighbours) for x in (turned, key[:, None]))
    kept = torch.cat((module.kv_a_layernorm(latent)[:, None], key), dim=-1)
    form = _expanded if _worth_expanding(module, plain.shape[2]) else _absorbed
    values = form(module, plain, turned, kept).transpose(1, 2)
    return module.o_proj(values.reshape(*hidden_states.shape[:2], -1)), None


def _worth_expanding(module: Any, tokens: int) -> bool:
    """Whether a packed step of so many tokens saves more on scores than it pays for every head's keys and values."""
    if not isinstance(FORWARD.view, Packed):
        return False
    head = module.qk_nope_head_dim + module.v_head_dim
    return bool(tokens * (2 * module.kv_lora_rank - head) > module.kv_lora_rank * head)


def _absorbed(module: Any, plain: Tensor, turned: Tensor, kept: Tensor) -> Tensor:
    """Attention in the space of latents: queries are carried into it, and what they see out of it; [B, H, T, value]."""
    weight = module.kv_b_proj.weight.view(plain.shape[1], -1, module.kv_lora_rank)
    to_key, to_value = weight.tensor_split([module.qk_nope_head_dim], dim=1)  # views: nothing is kept twice
    query = torch.cat((_per_head(plain, to_key), turned), dim=-1)
    seen = attend(module, query, kept, None, _scoring(module), module.kv_lora_rank)
    return _per_head(seen, to_value.transpose(1, 2))


def _expanded(module: Any, plain: Tensor, turned: Tensor, kept: Tensor) -> Tensor:
    """Attention with keys and values of every head, made of the latents that a packed step reads."""

    def expand(latents: Tensor) -> tuple[Tensor, Tensor]:
        latent, key = latents[:, 0].tensor_split([module.kv_lora_rank], dim=-1)
        heads = module.kv_b_proj(latent).view(len(latents), plain.shape[1], -1)
        of_key, of_value = heads.tensor_split([module.qk_nope_head_dim], dim=-1)
        return torch.cat((of_key, key[:, None].expand(-1, plain.shape[1], -1)), dim=-1), of_value

    query = torch.cat((plain, turned), dim=-1)
    return attend(module, query, kept, None, _scoring(module), module.v_head_dim, expand)


def _scoring(module: Any) -> Scoring:
    return Scoring(softmax_scale(module.config))


def rotary(module: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """In place of `DeepseekV2RotaryEmbedding.forward`, whose complex numbers not every device has; [B, T, R / 2]."""
    angles = position_ids[..., None].float() * module.inv_freq.float()
    return angles.cos() * module.attention_scaling, angles.sin() * module.attention_scaling


def _query(module: Any, hidden: Tensor) -> Tensor:
    """All heads' queries, [B, H, T, nope + rope]."""
    if module.q_lora_rank is None:
        flat = module.q_proj(hidden)
    else:
        flat = module.q_b_proj(module.q_a_layernorm(module.q_a_proj(hidden)))
    heads: Tensor = flat.view(*hidden.shape[:2], -1, module.qk_nope_head_dim + module.qk_rope_head_dim)
    return heads.transpose(1, 2)


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, *, neighbours: bool) -> Tensor:
    """x [B, H, T, R] rotated by [B, T, R / 2], in pairs of neighbours or of a half's number with the other's.

    Pairs come out as halves either way: keys and queries alike, so that no score sees it.
    """
    first, second = (x[..., ::2], x[..., 1::2]) if neighbours else x.tensor_split(2, dim=-1)
    cosine, sine = cosine[:, None], sine[:, None]
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)


def _per_head(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, H, T, I] times each head's own weight [H, I, O]; no copy of a weight per row."""
    batch, heads, length, _ = x.shape
    flat = torch.bmm(x.transpose(0, 1).reshape(heads, batch * length, -1), weight)
    return flat.view(heads, batch, length, -1).transpose(0, 1)


def softmax_scale(config: Any) -> float:
    """What scores are multiplied with, YaRN's correction included; transformers 4.55 forgets that for V2."""
    scale: float = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    rope = scaling_of(config)
    every, factor = rope.get("mscale_all_dim", 0), rope.get("factor", 1)
    if every and factor > 1:
        scale *= (0.1 * every * math.log(factor) + 1) ** 2
    return scale
