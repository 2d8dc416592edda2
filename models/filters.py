"""Top-k, top-p, min-p and typical-p over [B, V] without a sort: the exact sets, by bisecting integers.

A filter keeps the best tokens until there is enough of them. How far a token is from the best is a float32 >= 0,
whose bits ordered as an int32 keep the order of the floats: 31 yes-or-no questions find the last token that is kept
exactly, where halving an interval of floats would only come near. "Enough" is a count, or a mass in units of 2^-30:
sums of integers do not hang on the order in which a device adds, so a row's set is the same in every batch.

Equal tokens are kept or dropped together. `torch.where` over [B, V] is avoided: on a CPU it costs ten additions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.levels import Part

NEVER = -1e30
"""Added to what is dropped or banned: no noise reaches over it, and unlike -inf it survives a multiplication by 0."""
LOWEST = -1e38
"""Below every score but -inf."""
ALL = 2**31 - 1
"""As a target: more than there ever is."""
MASS_BITS = 30
"""A mass is counted in units of 2^-30: what rounds to 0 of the tail counts for nothing."""
SURPRISE_BITS = 26
"""An expected surprise, at most log(2^24) = 16.7, is counted in units of 2^-26."""
SPAN = 104.0
"""exp(-104) is 0 in float32."""


def masked(logits: Tensor, allowed: Tensor) -> Tensor:
    """The logits [B, V], made finite, less 2e30 where the bit of `allowed` [B, ceil(V / 32)] int32 is not set.

    Twice what the least of them is, so that any that is allowed comes before all others.
    """
    bit = torch.arange(32, dtype=torch.int32, device=allowed.device)
    bits = (allowed[:, :, None] >> bit).bitwise_and_(1).flatten(1)[:, : logits.shape[1]]
    return torch.add(logits.clamp_min(NEVER), bits - 1, alpha=-2 * NEVER)


def filtered(
    scores: Tensor, level: Part, top_k: Tensor, top_p: Tensor, lowest: Tensor, typical_p: Tensor
) -> Tensor:
    """Scores [B, V] (0 for the likeliest) less 1e30 where dropped, in transformers' order; the others are [B, 1].

    `top_k` is int32, ALL to keep all; `lowest` is log(min_p), LOWEST to keep all.
    """
    if Part.TOP_K in level:
        scores = _keep(scores, _keys(scores), None, top_k)
    if Part.TOP_P in level:
        weights = _weights(scores.softmax(-1))
        scores = _keep(scores, _keys(scores), weights, _target(weights, top_p))
    below = (scores - lowest).sign_().clamp_max_(0)
    scores = torch.add(scores, below, alpha=-NEVER)
    if Part.TYPICAL in level:
        shares = scores.softmax(-1)
        weights = _weights(shares)
        # Entropy and surprise both lack the constant that log_softmax would add: their distance does not change.
        distance = scores + _expected_surprise(shares, scores)
        scores = _keep(scores, _keys(distance), weights, _target(weights, typical_p))
    return scores


def _keep(scores: Tensor, keys: Tensor, weights: Tensor | None, target: Tensor) -> Tensor:
    """The scores less 1e30 for all keys beyond the least bound whose weights reach the target."""
    beyond = (_bound(keys, weights, target) - keys) >> 31
    return torch.add(scores, beyond, alpha=-NEVER)


def _keys(distance: Tensor) -> Tensor:
    """The distances' order as int32 >= 0, after rounding to float32; abs also turns -0 into 0."""
    return distance.abs().float().view(torch.int32)


def _weights(shares: Tensor) -> Tensor:
    """The shares [B, V] of a whole as int32; they sum to at most 2^30 + V / 2."""
    return shares.mul(2.0**MASS_BITS).round_().to(torch.int32)


def _target(weights: Tensor, mass: Tensor) -> Tensor:
    """The part [B, 1] of all weights that is enough; ALL where the mass is 1, at least 1, so that one token stays."""
    total = weights.sum(-1, keepdim=True, dtype=torch.int32)
    share = (total.to(mass.dtype) * mass).to(torch.int32).clamp_min_(1)
    return torch.where(mass < 1, share, ALL)


def _expected_surprise(shares: Tensor, scores: Tensor) -> Tensor:
    """The mean of -scores [B, 1], each token's part of it rounded to a multiple of 2^-26."""
    terms = (shares * scores.clamp_min(-SPAN)).mul_(-(2.0**SURPRISE_BITS)).round_().to(torch.int32)
    return terms.sum(-1, keepdim=True, dtype=torch.int32).to(scores.dtype) * 2.0**-SURPRISE_BITS


def _bound(keys: Tensor, weights: Tensor | None, target: Tensor) -> Tensor:
    """The least bound [B, 1] such that the weights (None: 1 each) of keys <= bound reach the target, else ALL.

    Bit by bit from the highest, it is the largest number below which the keys do not reach the target.
    """
    bound, below = torch.zeros_like(target), torch.empty_like(keys)
    for bit in reversed(range(31)):
        trial = bound + (1 << bit)
        torch.sub(keys, trial, out=below)  # cannot overflow: both are >= 0
        below >>= 31  # -1, all bits, where key < trial; else 0
        if weights is None:
            reached = -below.sum(-1, keepdim=True, dtype=torch.int32)
        else:
            below &= weights
            reached = below.sum(-1, keepdim=True, dtype=torch.int32)
        bound = torch.where(reached < target, trial, bound)
    return bound
