"""What bench/differences.py counts, and how sure it is of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.differences import Tally, first_difference, scale_for, wilson


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [1], 1),
        ([], [1], 0),
    ],
)
def test_the_first_difference_is_a_token_or_an_end(one: list[int], other: list[int], at: int | None) -> None:
    assert first_difference(one, other) == at


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (1, 20, 0.0089, 0.2361)],
)
def test_the_interval_is_wilsons(hits: int, of: int, low: float, high: float) -> None:
    assert wilson(hits, of) == pytest.approx((low, high), abs=5e-5)


def test_tokens_count_from_where_a_text_is_made_anew_to_its_first_difference() -> None:
    alone, others = [[1, 2, 3, 4], [5, 6, 7]], [[1, 2, 3, 4], [5, 9, 7]]
    tally = Tally.of(alone, others, starts=[2, 1])
    assert tally == Tally(first=[1], texts=2, tokens=2 + 1)
    assert tally.line.startswith("1 of 2 | 50.0 [")


class Constant(nn.Module):
    """A model whose logits are the same for all tokens."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, ids: torch.Tensor) -> Constant:
        return self


@pytest.mark.parametrize("entropy", [0.5, 2.0, 4.0])
def test_the_head_is_scaled_to_the_entropy_asked_for(entropy: float) -> None:
    logits = torch.randn(64, 500, generator=torch.manual_seed(1), dtype=torch.float64)
    scaled = torch.distributions.Categorical(logits=scale_for(Constant(logits), entropy) * logits)
    assert scaled.entropy().mean().item() == pytest.approx(entropy, abs=1e-6)
