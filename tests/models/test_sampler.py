"""The sampler against plain arithmetic: filters as sets, noise as a distribution, penalties as sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.filters import filtered
from models.noise import gumbel, row_key
from models.sampler import History, Level, Sampler, inputs_of, level_of
from models.step import Row, Sampling

SLOTS, EOS = 4, 2
GOLDEN = [-0.7369855642318726, -0.9624348878860474, 0.08025122433900833, -0.05104789137840271]


def sampler(vocab: int, dtype: torch.dtype = torch.float32) -> Sampler:
    is_eos = torch.zeros(vocab, dtype=torch.bool)
    is_eos[EOS] = True
    return Sampler(History.empty(SLOTS, vocab, torch.device("cpu")), is_eos, dtype)


def row(slot: int = 0, position: int = 0, sample: bool = True) -> Row:
    return Row(slot=slot, ids=(0,), start=0, blocks=(1,), sample=sample, position=position)


def choose(
    chooser: Sampler, logits: Tensor, rows: Sequence[tuple[Row, Sampling]], level: Level = Level.FULL
) -> tuple[list[int], list[float]]:
    inputs = inputs_of(rows, level, len(logits), SLOTS, chooser.dtype)
    ids, logprobs = chooser.planned(level)(logits=logits, **inputs)
    return ids.tolist(), logprobs.tolist()


def kept(logits: Tensor, **filters: float) -> set[int]:
    """The tokens of a single row that pass the filters."""
    neutral = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0} | filters
    scores = (logits - logits.max())[None]
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in neutral.items()}
    values["top_k"] = values["top_k"].long()
    return {int(token) for token in (filtered(scores, **values)[0] > -torch.inf).nonzero()}


def nucleus(order: Sequence[int], weights: Tensor, mass: float) -> set[int]:
    """The shortest prefix of the order whose weights reach the mass."""
    chosen: set[int] = set()
    total = 0.0
    for token in order:
        chosen.add(int(token))
        total += float(weights[token])
        if total >= mass:
            break
    return chosen


class TestFilters:
    @given(
        seed=st.integers(0, 10**6),
        vocab=st.integers(2, 200),
        spread=st.floats(0.01, 30),
        k=st.integers(1, 250),
        mass=st.floats(0.01, 0.999),
    )
    @settings(max_examples=60, deadline=None)
    def test_each_keeps_the_set_that_sorting_would_keep(
        self, seed: int, vocab: int, spread: float, k: int, mass: float
    ) -> None:
        logits = (
            torch.randn(vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
        )
        weights = logits.softmax(-1)
        order = logits.argsort(descending=True).tolist()
        visible = {token for token in order if logits[token] > logits.max() - 100}
        assert kept(logits, top_k=k) & visible == set(order[:k]) & visible
        assert kept(logits, min_p=mass) == {t for t in order if weights[t] >= mass * weights.max()}
        # A nucleus that ends within a rounding error of the mass may be one token longer or shorter.
        assert (
            nucleus(order, weights, mass - 1e-6)
            <= kept(logits, top_p=mass)
            <= nucleus(order, weights, mass + 1e-6)
        )
        surprise = (logits.log_softmax(-1) + (-weights * logits.log_softmax(-1)).sum()).abs()
        typical = surprise.argsort().tolist()
        low, high = (nucleus(typical, weights, mass + margin) for margin in (-1e-6, 1e-6))
        assert low <= kept(logits, typical_p=mass) <= high

    def test_they_apply_one_after_another_to_what_is_left(self) -> None:
        logits = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
        assert kept(logits, top_k=2) == {0, 1}
        assert kept(logits, top_p=0.5) == {0, 1}
        assert kept(logits, top_k=2, top_p=0.5) == {0}  # 0.4 is 0.57 of what top_k left

    def test_ties_with_the_last_token_stay(self) -> None:
        assert kept(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64), top_k=2) == {0, 1, 2}

    def test_banned_tokens_stay_banned(self) -> None:
        logits = torch.tensor([0.0, -math.inf, -1.0], dtype=torch.float64)
        for filters in ({}, {"top_k": 3}, {"top_p": 0.9999}, {"typical_p": 0.9999}, {"min_p": 1e-9}):
            assert kept(logits, **filters) == {0, 2}


class TestNoise:
    def test_it_is_the_same_for_ever(self) -> None:
        """Golden values: another noise would change every seeded text that a user has kept."""
        noise = gumbel(torch.tensor([row_key(2**64 - 1, 3, 17)], dtype=torch.int32), 4)[0]
        assert noise.tolist() == pytest.approx(GOLDEN, abs=1e-5)

    @pytest.mark.parametrize("axis", ["token", "position", "seed", "choice"])
    def test_draws_follow_the_distribution(self, axis: str) -> None:
        """chi² over 8 bins stays below its 1 - 1e-6 quantile, whichever coordinate varies."""
        draws, bins = 20_000, 8
        if axis == "token":
            noise = gumbel(torch.tensor([row_key(1, 0, 0)], dtype=torch.int32), draws * bins).view(
                draws, bins
            )
        else:
            at = {
                "position": lambda i: (5, 0, i),
                "seed": lambda i: (i, 0, 0),
                "choice": lambda i: (5, i, 0),
            }[axis]
            noise = gumbel(torch.tensor([row_key(*at(i)) for i in range(draws)], dtype=torch.int32), bins)
        weights = torch.tensor([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01])
        counts = (weights.log() + noise).argmax(-1).bincount(minlength=bins).double()
        expected = weights.double() * draws
        assert float(((counts - expected) ** 2 / expected).sum()) < 42.7  # 7 degrees of freedom

    def test_neighbouring_tokens_and_rows_are_independent(self) -> None:
        noise = gumbel(torch.tensor([row_key(1, 0, i) for i in range(64)], dtype=torch.int32), 4096)
        for other in (noise.roll(1, 0), noise.roll(1, 1)):
            assert (
                abs(float(torch.corrcoef(torch.stack([noise.reshape(-1), other.reshape(-1)]))[0, 1])) < 0.01
            )

    def test_it_is_finite(self) -> None:
        assert bool(gumbel(torch.zeros(1, 2, dtype=torch.int32), 1 << 20).isfinite().all())


class TestLevels:
    @given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 10**6), temperature=st.floats(0.05, 5))
    @settings(max_examples=30, deadline=None)
    def test_a_neutral_row_gets_the_same_token_at_every_level(
        self, seed: int, position: int, temperature: float
    ) -> None:
        logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(seed % 1000))
        rows = [
            (row(0, position), Sampling(seed=seed, do_sample=True, temperature=temperature)),
            (row(1, position), Sampling()),
        ]
        chooser = sampler(300)
        full, noise = (choose(chooser, logits, rows, level) for level in (Level.FULL, Level.NOISE))
        assert full == noise
        assert choose(chooser, logits, rows, Level.GREEDY)[0][1] == full[0][1]

    @pytest.mark.parametrize(
        ("sampling", "level"),
        [
            (Sampling(), Level.GREEDY),
            (Sampling(temperature=0.5, top_k=3), Level.GREEDY),
            (Sampling(do_sample=True), Level.NOISE),
            (Sampling(do_sample=True, top_p=0.9), Level.FULL),
            (Sampling(presence_penalty=0.1), Level.FULL),
            (Sampling(min_new_tokens=3), Level.FULL),
        ],
    )
    def test_the_lowest_that_suffices(self, sampling: Sampling, level: Level) -> None:
        assert level_of(sampling, position=2) is level

    def test_after_the_minimum_the_level_falls(self) -> None:
        assert level_of(Sampling(min_new_tokens=3), position=3) is Level.GREEDY


class TestPenalties:
    def test_repetition_counts_prompt_and_output(self) -> None:
        chooser = sampler(6)
        chooser.history.open(1, prompt=[3, 3], output=[4])
        logits = torch.tensor([[0.0, 0.0, 0.0, 2.0, -1.0, 1.5]])
        ids, _ = choose(chooser, logits, [(row(1), Sampling(repetition_penalty=2.0))])
        assert ids == [5]  # 2.0 / 2 falls below 1.5, and -1.0 * 2 further down
        ids, _ = choose(chooser, logits, [(row(1), Sampling(repetition_penalty=0.5))])
        assert ids == [3]

    @pytest.mark.parametrize(
        ("penalty", "third"), [({"frequency_penalty": 0.6}, 1), ({"presence_penalty": 0.6}, 0)]
    )
    def test_frequency_grows_with_each_token_and_presence_does_not(self, penalty: Any, third: int) -> None:
        chooser = sampler(3)
        chooser.history.open(0, prompt=[0, 0, 0], output=[])  # the prompt does not count
        logits = torch.tensor([[2.0, 1.0, -5.0]])
        tokens = [choose(chooser, logits, [(row(0, i), Sampling(**penalty))])[0][0] for i in range(3)]
        assert tokens == [0, 0, third]

    def test_only_sampled_rows_are_counted(self) -> None:
        chooser = sampler(3)
        chooser.history.open(0, prompt=[], output=[])
        sampling = Sampling(presence_penalty=1.0)
        for _ in range(3):
            choose(chooser, torch.tensor([[9.0, 0.0, 0.0]]), [(row(0, sample=False), sampling)])
        assert chooser.history.counts[:SLOTS].sum() == 0

    def test_opening_a_slot_forgets_its_last_sequence(self) -> None:
        chooser = sampler(6)
        chooser.history.open(1, prompt=[3], output=[4, 4])
        chooser.history.open(1, prompt=[5], output=[2])
        assert chooser.history.prompt[1].tolist() == [False] * 5 + [True]
        assert chooser.history.counts[1].tolist() == [0, 0, 1, 0, 0, 0]

    def test_the_end_is_banned_until_enough_tokens_are_there(self) -> None:
        logits = torch.tensor([[0.0, 1.0, 5.0]])
        for position, token in ((0, 1), (1, 1), (2, EOS)):
            ids, logprobs = choose(sampler(3), logits, [(row(position=position), Sampling(min_new_tokens=2))])
            assert ids == [token]
            assert logprobs[0] <= 0

    def test_the_logprob_is_before_temperature_and_filters(self) -> None:
        logits = torch.tensor([[1.0, 2.0, 3.0]])
        sampling = Sampling(do_sample=True, temperature=0.01, top_k=1)
        _, logprobs = choose(sampler(3), logits, [(row(), sampling)])
        assert logprobs == pytest.approx([float(logits.log_softmax(-1)[0, 2])])


def test_a_filtered_row_samples_its_renormalised_distribution() -> None:
    """End to end, top-p and temperature together: chi² over what the filters leave."""
    draws = 20_000
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    sampling = Sampling(do_sample=True, temperature=2.0, top_p=0.8)
    rows = [(row(0, i), sampling) for i in range(draws)]
    ids, _ = choose(sampler(4), logits.expand(draws, 4), rows)
    weights = logits.double().div(2).softmax(-1)[:3]
    expected = weights / weights.sum() * draws
    counts = torch.tensor(ids).bincount(minlength=4).double()
    assert counts[3] == 0
    assert float(((counts[:3] - expected) ** 2 / expected).sum()) < 27.6  # 1 - 1e-6, 2 degrees of freedom
