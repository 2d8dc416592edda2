"""DeepSeek's multi-head latent attention over its compressed cache: one latent and one rotated key per token.

Every query head is carried into the latent space, so that to the pool this is one K/V head, whose value is the
latent part of its key. transformers expands the latents to all heads before it calls an attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from models.attention import attend
from models.layouts import Scoring
from models.rope import scaling_of


def attention(
    module: Any, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
) -> tuple[Tensor, None]:
    """In place of `DeepseekV2Attention.forward` and V3's, for hidden states [B, T, D]."""
    plain, turned = _query(module, hidden_states).tensor_split([module.qk_nope_head_dim], dim=-1)
    latent, key = module.kv_a_proj_with_mqa(hidden_states).tensor_split([module.kv_lora_rank], dim=-1)
    cosine, sine = (each[..., : module.qk_rope_head_dim // 2] for each in position_embeddings)
    neighbours = getattr(module.config, "rope_interleave", True)  # V2 knows no other order
    turned, key = (_turn(x, cosine, sine, neighbours=neighbours) for x in (turned, key[:, None]))
    to_key, to_value = _expansions(module, plain.shape[1])
    scoring = Scoring(softmax_scale(module.config))
    query = torch.cat((_per_head(plain, to_key), turned), dim=-1)
    stored = torch.cat((module.kv_a_layernorm(latent)[:, None], key), dim=-1)
    seen = attend(module, query, stored, None, scoring, module.kv_lora_rank)
    values = _per_head(seen, to_value.transpose(1, 2)).transpose(1, 2)
    return module.o_proj(values.reshape(*hidden_states.shape[:2], -1)), None


def rotary(module: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """In place of `DeepseekV2RotaryEmbedding.forward`, whose complex numbers not every device has; [B, T, R / 2]."""
    angles = position_ids[..., None].float() * module.inv_freq.float()
    return angles.cos() * module.attention_scaling, angles.sin() * module.attention_scaling


def _expansions(module: Any, heads: int) -> tuple[Tensor, Tensor]:
    """What makes keys [H, nope, latent] and values [H, value, latent] of a latent: halves of one weight, not copies."""
    weight = module.kv_b_proj.weight.view(heads, -1, module.kv_lora_rank)
    to_key, to_value = weight.tensor_split([module.qk_nope_head_dim], dim=1)
    return to_key, to_value


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
