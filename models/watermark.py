"""The watermark of Kirchenbauer et al. (A Watermark for Large Language Models, 2023), which TGI serves too.

After each token a part of the vocabulary is green, and its logits are raised: who knows the rule finds more green
tokens in a text than chance would give. TGI draws green lists with the device's own random numbers, and only such
a device finds them again; here a hash of (previous token, token) decides, the same 32 bits on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.noise import hashed

HASH_KEY = 15_485_863
"""TGI's and the paper's: the millionth prime."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """How strong it is."""

    gamma: float
    """The share of the vocabulary that is green, (0, 1)."""
    delta: float
    """What is added to a green token's logit."""

    def marked(self, logits: Tensor, previous: Tensor, wanted: Tensor) -> Tensor:
        """The logits [B, V], raised where green after `previous` if `wanted` is 1, not 0; both are int32 [B, 1]."""
        tokens = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)[None, :]
        raised = wanted.to(logits.dtype) * self.delta
        return logits + self._green(previous, tokens).to(logits.dtype) * raised

    def z_score(self, ids: Sequence[int]) -> float:
        """By how many standard deviations more of ids[1:] are green than chance gives; above 4 is hardly chance.

        Each pair of neighbours counts once: what a text repeats tells nothing new.
        """
        pairs = torch.tensor(sorted(set(pairwise(ids))), dtype=torch.int32).view(-1, 2)
        expected = self.gamma * len(pairs)
        green = int(self._green(pairs[:, :1], pairs[:, 1:]).sum())
        return (green - expected) / math.sqrt(expected * (1 - self.gamma)) if len(pairs) else 0.0

    def _green(self, previous: Tensor, tokens: Tensor) -> Tensor:
        """Whether each of the tokens [1 or B, N] is green after `previous` [B, 1]."""
        bits = hashed(torch.cat([previous * HASH_KEY, previous], dim=1), tokens)
        return bits < round(self.gamma * 2**32) - 2**31
