"""Top-k, top-p, min-p and typical-p over [B, V] by a fixed number of bisections: exact sets without a sort."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BISECTIONS = 32
SPAN = 104.0
"""exp(-104) is 0 in float32: a token so far below the likeliest cannot matter to any filter."""


def filtered(scores: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, typical_p: Tensor) -> Tensor:
    """Scores [B, V] (0 for the likeliest) with -inf for what a row's filters drop, in transformers' order."""
    scores = _keep(scores, top_k > 0, scores >= _top_k_floor(scores, top_k))
    weights = scores.softmax(-1)
    scores = _keep(scores, top_p < 1, scores >= _mass_floor(scores, weights, top_p))
    scores = _keep(scores, min_p > 0, scores >= min_p.log()[:, None])
    weights = scores.softmax(-1)
    # Entropy and surprise both lack the constant that log_softmax would add: their distance does not change.
    surprise = (weights * -scores.clamp_min(-SPAN)).sum(-1, keepdim=True)
    distance = torch.where(scores == -torch.inf, torch.inf, (-scores - surprise).abs())
    return _keep(scores, typical_p < 1, -distance >= _mass_floor(-distance, weights, typical_p))


def _keep(scores: Tensor, active: Tensor, kept: Tensor) -> Tensor:
    return torch.where(~active[:, None] | kept, scores, -torch.inf)


def _top_k_floor(scores: Tensor, top_k: Tensor) -> Tensor:
    """The highest floor [B, 1] that at least k scores reach; ties with the k-th stay."""
    return _floor(scores, lambda kept: kept.sum(-1) >= top_k)


def _mass_floor(scores: Tensor, weights: Tensor, mass: Tensor) -> Tensor:
    """The highest floor [B, 1] such that the weights of what reaches it sum to the mass."""
    return _floor(scores, lambda kept: torch.where(kept, weights, 0.0).sum(-1) >= mass)


def _floor(scores: Tensor, enough: Callable[[Tensor], Tensor]) -> Tensor:
    """Bisect for the highest floor [B, 1] within SPAN of the best score for which `enough` holds of what reaches it."""
    high = scores.amax(-1, keepdim=True)
    low = high - SPAN
    high = high + 1e-3
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        holds = enough(scores >= middle)[:, None]
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low
