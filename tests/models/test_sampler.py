"""The sampler against plain arithmetic: filters as sets, noise as a distribution, penalties as sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.filters import ALL, LOWEST, NEVER, filtered
from models.history import COUNTS
from models.levels import GREEDY, LEVELS, Part, levels_of, parts_of
from models.noise import gumbel, noise_bits, row_keys
from models.ranks import likeliest
from models.sampler import MOST_TOKENS, MOST_TOP_N, Sampler, check_vocab, report
from models.step import Row, Sampled, Sampling
from models.wishes import Wishes
from tests.models.audit import Signatures

SLOTS, EOS = 4, 2
CPU = torch.device("cpu")
EVERYTHING = LEVELS[-1]
VECTORS = [
    (
        (2**64 - 1, 17),
        [1176326099, 1857191466, 1967804542, 925070003],
        [1.139289, 0.568529, 0.489726, 1.416499],
    ),
    ((0, 0), [2084817883, 1251270110, -188261382, -664147581], [0.408895, 1.066036, -1.140192, -0.62417]),
    (
        (1234, 4095),
        [-1506003760, 544331294, 930675003, -1266515312],
        [-0.046869, 1.998647, 1.40966, -0.199813],
    ),
]
"""((seed, position), the first four tokens' bits, their noise)."""


def sampler(vocab: int, dtype: torch.dtype = torch.float32) -> Sampler:
    return Sampler(SLOTS, vocab, [EOS], dtype, CPU)


def row(slot: int = 0, position: int = 0, sample: bool = True) -> Row:
    return Row(slot=slot, ids=(0,), start=0, blocks=(1,), sample=sample, position=position)


def level_of(rows: Sequence[tuple[Row, Sampling]]) -> Part:
    """The planned level for rows with these wishes, each in a slot of its own."""
    wishes = Wishes(len(rows), torch.float32)
    for slot, (_, sampling) in enumerate(rows):
        wishes.set(slot, sampling)
    return wishes.level([replace(row, slot=slot) for slot, (row, _) in enumerate(rows)])


def inputs_of(
    rows: Sequence[tuple[Row, Sampling]],
    logits: Tensor,
    dtype: torch.dtype,
    level: Part,
    allowed: Collection[int] = (),
) -> dict[str, Tensor]:
    """The sampler's inputs for rows with these wishes; of constrained ones these tokens are allowed."""
    batch, vocab = logits.shape
    wishes = Wishes(SLOTS, dtype)
    for row, sampling in rows:
        wishes.set(row.slot, sampling)
    inputs = wishes.inputs([row for row, _ in rows], batch)
    if Part.MASK not in level:
        return inputs
    masks = np.ones((batch, -(-vocab // 32) * 32), bool)
    for index, (_, sampling) in enumerate(rows):
        if sampling.constrained:
            masks[index] = np.isin(np.arange(masks.shape[1]), list(allowed))
    return inputs | {
        "allowed": torch.from_numpy(np.packbits(masks, axis=1, bitorder="little").view(np.int32))
    }


def key_of(*at: tuple[int, int]) -> Tensor:
    """The keys [B, 2] of these (seed, position)."""
    return torch.from_numpy(row_keys(*(np.array(column, np.uint64) for column in zip(*at, strict=True))))


def opened(
    chooser: Sampler,
    slot: int,
    sampling: Sampling,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
) -> Sampling:
    """The slot given to a sequence, as the runner does."""
    chooser.history.write(**chooser.history.rows_of(slot, prompt, output, sampling))
    return sampling


def choose(
    chooser: Sampler,
    logits: Tensor,
    rows: Sequence[tuple[Row, Sampling]],
    level: Part = EVERYTHING,
    allowed: Collection[int] = (),
) -> list[Sampled]:
    """What that level gives, one entry per row of logits."""
    inputs = inputs_of(rows, logits, chooser.dtype, level, allowed)
    (chosen,) = chooser.planned(level)(logits=logits, **inputs)
    counts = [sampling.top_n for _, sampling in rows] + [0] * len(logits)
    return [report(each, n) for each, n in zip(chosen.tolist(), counts, strict=False)]


def ids_of(chosen: Sequence[Sampled]) -> list[int]:
    return [each.id for each in chosen]


def draws_of(
    chooser: Sampler,
    logits: Tensor,
    sampling: Sampling,
    draws: int,
    level: Part,
    allowed: Collection[int] = (),
) -> Tensor:
    """How often each token comes in so many positions of one sequence in slot 0, which counts none of them."""
    batch = min(draws, (1 << 23) // len(logits))
    counts = torch.zeros(len(logits), dtype=torch.float64)
    for start in range(0, draws, batch):
        rows = [(row(0, position, sample=False), sampling) for position in range(start, start + batch)]
        chosen = choose(chooser, logits.expand(batch, -1), rows, level, allowed)
        counts += torch.tensor(ids_of(chosen)).bincount(minlength=len(logits))
    return counts


def chi2(counts: Tensor, weights: Tensor) -> float:
    expected = weights * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def limit(bins: int) -> float:
    """The 1 - 1e-6 quantile of chi² (Wilson and Hilferty): what a right sampler exceeds once in a million seeds."""
    spread = 2 / (9 * (bins - 1))
    return (bins - 1) * (1 - spread + 4.7534 * math.sqrt(spread)) ** 3


def kept(logits: Tensor, **filters: float) -> set[int]:
    """The tokens of a single row that pass the filters."""
    neutral = {"top_k": ALL, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0} | filters
    values = {name: torch.tensor([[value]], dtype=torch.float64) for name, value in neutral.items()}
    lowest = values["min_p"].log().clamp_min(LOWEST)
    scores = filtered(
        (logits - logits.max())[None],
        EVERYTHING,
        values["top_k"].int(),
        values["top_p"],
        lowest,
        values["typical_p"],
    )
    return {int(token) for token in (scores[0] > NEVER / 2).nonzero()}


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


def reference(
    logits: Tensor,
    sampling: Sampling,
    prompt: Sequence[int],
    output: Sequence[int],
    allowed: Collection[int] = (),
) -> Tensor:
    """The distribution that a token is drawn from, by sorting, in float64."""
    scores = logits.double().clone()
    for token, value in sampling.logit_bias:
        scores[token] += value
    for token in {*prompt, *output}:
        scores[token] *= (
            sampling.repetition_penalty if scores[token] <= 0 else 1 / sampling.repetition_penalty
        )
    for token in output:
        scores[token] -= sampling.frequency_penalty
    for token in set(output):
        scores[token] -= sampling.presence_penalty
    if sampling.constrained:
        scores[sorted({*range(len(scores))} - {*allowed})] = -math.inf
    scores /= sampling.temperature
    if sampling.top_k:
        scores[scores < scores.sort(descending=True).values[min(sampling.top_k, len(scores)) - 1]] = -math.inf
    for mass, by_surprise in ((sampling.top_p, False), (sampling.typical_p, True)):
        weights, surprise = scores.softmax(-1), -scores.log_softmax(-1)
        entropy = (weights * surprise.nan_to_num(posinf=0)).sum()
        order = ((surprise - entropy).abs() if by_surprise else surprise).argsort().tolist()
        if mass < 1:
            out = set(range(len(scores))) - nucleus(order, weights, mass)
            scores[sorted(out)] = -math.inf
        if not by_surprise and sampling.min_p:
            weights = scores.softmax(-1)
            scores[weights < sampling.min_p * weights.max()] = -math.inf
    return scores.softmax(-1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


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
        assert kept(logits, top_k=k) == set(order[:k])
        assert kept(logits, min_p=mass) == {t for t in order if weights[t] >= mass * weights.max()}
        # A nucleus that ends within a rounding error of the mass may be one token longer or shorter.
        low, high = (nucleus(order, weights, mass + margin) for margin in (-1e-6, 1e-6))
        assert low <= kept(logits, top_p=mass) <= high
        surprise = (logits.log_softmax(-1) + (-weights * logits.log_softmax(-1)).sum()).abs()
        typical = surprise.argsort().tolist()
        last = max(float(surprise[token]) for token in nucleus(typical, weights, mass))
        low, high = (nucleus(typical, weights, mass + margin) for margin in (-1e-6, 1e-6))
        # The expected surprise is rounded too: two tokens that are as far on either side of it may change places.
        doubtful = {token for token in typical if abs(float(surprise[token]) - last) < 1e-5}
        assert low - doubtful <= kept(logits, typical_p=mass) <= high | doubtful

    def test_they_apply_one_after_another_to_what_is_left(self) -> None:
        logits = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
        assert kept(logits, top_k=2) == {0, 1}
        assert kept(logits, top_p=0.5) == {0, 1}
        assert kept(logits, top_k=2, top_p=0.5) == {0}  # 0.4 is 0.57 of what top_k left

    def test_ties_with_the_last_token_stay(self) -> None:
        tied = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
        for filters in ({"top_k": 2}, {"top_p": 0.4}, {"typical_p": 0.4}):
            assert kept(tied, **filters) == {0, 1, 2}

    def test_neighbouring_floats_are_no_ties(self) -> None:
        """The thresholds are exact: the k-th of 1000 scores is told from the next that float32 can hold."""
        bits = torch.tensor(-3.7).view(torch.int32) + torch.arange(1000, dtype=torch.int32)
        logits = torch.cat([torch.zeros(1), bits.view(torch.float32)])
        for k in (1, 2, 400, 1000):
            assert kept(logits, top_k=k) == set(range(k))

    def test_banned_tokens_stay_banned(self) -> None:
        logits = torch.tensor([0.0, -math.inf, -1.0], dtype=torch.float64)
        for filters in ({}, {"top_k": 3}, {"top_p": 0.9999}, {"typical_p": 0.9999}, {"min_p": 1e-9}):
            assert kept(logits, **filters) == {0, 2}

    def test_a_filter_never_drops_all(self) -> None:
        logits = torch.arange(1001, dtype=torch.float32).neg()
        for filters in ({"top_k": 1}, {"top_p": 1e-12}, {"min_p": 0.999999}):
            assert kept(logits, **filters) == {0}
        assert len(kept(logits, typical_p=1e-12)) == 1

    def test_top_k_of_the_vocabulary_or_more_keeps_all(self) -> None:
        logits = torch.linspace(0, -1000, 1001)
        for k in (1001, 1002, 10**9):
            assert kept(logits, top_k=k) == set(range(1001))

    def test_neutral_filters_keep_what_has_no_share_of_the_mass(self) -> None:
        assert kept(torch.linspace(0, -1000, 1001)) == set(range(1001))

    @pytest.mark.usefixtures("two_threads")
    def test_a_set_does_not_hang_on_the_batch(self) -> None:
        """Sums of floats do: with two threads, a lone row of 50,257 is added up in another order."""
        logits = torch.randn(6, 50_257, generator=torch.Generator().manual_seed(1))
        assert any(float(one.sum()) != float(both) for one, both in zip(logits, logits.sum(-1), strict=True))
        top_k = torch.tensor([[ALL], [50], [ALL], [ALL], [9000], [ALL]], dtype=torch.int32)
        others = torch.tensor(
            [
                [0.9, LOWEST, 1.0],
                [0.95, LOWEST, 1.0],
                [1.0, LOWEST, 0.9],
                [1.0, -3.0, 1.0],
                [0.99, LOWEST, 0.5],
                [1.0, LOWEST, 1.0],
            ]
        )
        scores = logits - logits.amax(-1, keepdim=True)
        together = filtered(scores, EVERYTHING, top_k, *others.split(1, 1))
        for index in range(len(logits)):
            one = slice(index, index + 1)
            alone = filtered(scores[one], EVERYTHING, top_k[one], *others[one].split(1, 1))
            assert torch.equal(alone, together[one])


def hashed(seed: int, position: int, token: int) -> int:
    """The noise's bits in plain Python, from its definition: SplitMix64 for the row, lowbias32 twice for the token."""

    def mix64(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def mix32(x: int) -> int:
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    golden = 0x9E3779B97F4A7C15
    stream = mix64((seed + golden) % 2**64) ^ mix64(position + 1)
    key = mix64((stream + golden) % 2**64)
    return mix32((mix32(token ^ (key >> 32)) + key) % 2**32)


class TestNoise:
    @pytest.mark.parametrize(("at", "bits", "noise"), VECTORS)
    def test_it_is_the_same_for_ever(self, at: tuple[int, int], bits: list[int], noise: list[float]) -> None:
        """Committed values: another noise would change every seeded text that a user has kept."""
        keys = key_of(at)
        assert noise_bits(keys, 4)[0].tolist() == bits
        assert gumbel(keys, 4)[0].tolist() == pytest.approx(noise, abs=1e-5)

    @given(
        seed=st.integers(0, 2**64 - 1),
        position=st.integers(0, 10**6),
        vocab=st.integers(1, 2000),
    )
    @settings(max_examples=50, deadline=None)
    def test_its_bits_are_those_of_unbounded_integers(self, seed: int, position: int, vocab: int) -> None:
        keys = key_of((seed, position))
        last = int(noise_bits(keys, vocab)[0, -1])
        assert last % 2**32 == hashed(seed, position, vocab - 1)

    @pytest.mark.parametrize("axis", ["token", "position", "seed"])
    def test_draws_follow_the_distribution(self, axis: str) -> None:
        """Whichever coordinate varies."""
        draws, bins = 20_000, 8
        if axis == "token":
            noise = gumbel(key_of((1, 0)), draws * bins).view(draws, bins)
        else:
            varying: dict[str, Callable[[int], tuple[int, int]]] = {
                "position": lambda i: (5, i),
                "seed": lambda i: (i, 0),
            }
            at = varying[axis]
            noise = gumbel(key_of(*(at(i) for i in range(draws))), bins)
        weights = torch.tensor([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01])
        counts = (weights.log() + noise).argmax(-1).bincount(minlength=bins).double()
        assert chi2(counts, weights.double()) < limit(bins)

    def test_neighbouring_tokens_and_rows_are_independent(self) -> None:
        noise = gumbel(key_of(*((1, i) for i in range(64))), 4096)
        for other in (noise.roll(1, 0), noise.roll(1, 1)):
            assert (
                abs(float(torch.corrcoef(torch.stack([noise.reshape(-1), other.reshape(-1)]))[0, 1])) < 0.01
            )

    def test_it_is_finite(self) -> None:
        assert bool(gumbel(torch.zeros(1, 2, dtype=torch.int32), 1 << 20).isfinite().all())


PROMPT, OUTPUT = (0, 1, 1, 7), (2, 2, 2, 3, 9)
COMBINATIONS = [
    Sampling(temperature=0.7),
    Sampling(temperature=1.6, top_k=12),
    Sampling(top_p=0.8),
    Sampling(temperature=2.5, min_p=0.2),
    Sampling(typical_p=0.7),
    Sampling(temperature=1.3, top_k=25, top_p=0.9, typical_p=0.8, min_p=0.03),
    Sampling(repetition_penalty=1.5, frequency_penalty=0.4, presence_penalty=-0.7),
    Sampling(logit_bias=((5, 3.0), (2, -100.0), (38, 1.5)), top_p=0.9),
    Sampling(
        logit_bias=((3, 2.0),), repetition_penalty=0.7, frequency_penalty=-0.2, top_k=20, temperature=1.4
    ),
    Sampling(constrained=True),
    Sampling(
        constrained=True, top_p=0.8, repetition_penalty=1.4, frequency_penalty=0.3, presence_penalty=0.5
    ),
    Sampling(constrained=True, temperature=1.3, top_k=12, typical_p=0.8, min_p=0.02, logit_bias=((4, 2.0),)),
]
ALLOWED = frozenset({0, 1, 2, 3, 4, 9, 17, 18, 20, 23, 25, 28, 31, 32, 33, 38, 40})


class TestDistribution:
    """Counts of draws against a float64 reference that sorts: chi² below its 1 - 1e-6 quantile, for fixed seeds."""

    @pytest.mark.parametrize("index", range(len(COMBINATIONS)))
    def test_any_combination_draws_what_sorting_would(self, index: int) -> None:
        fields = {name: getattr(COMBINATIONS[index], name) for name in Sampling.__slots__}
        chooser, vocab = sampler(41), 41
        sampling = opened(
            chooser, 0, Sampling(**(fields | {"do_sample": True, "seed": index})), PROMPT, OUTPUT
        )
        logits = torch.randn(vocab, generator=torch.Generator().manual_seed(index)) * 1.5
        level = level_of([(row(), sampling)])
        counts = draws_of(chooser, logits, sampling, 20_000, level, ALLOWED)
        weights = reference(logits, sampling, PROMPT, OUTPUT, ALLOWED)
        assert counts[weights == 0].sum() == 0
        likely = weights * counts.sum() >= 5  # rarer tokens share a bin
        binned = [torch.cat([each[likely], each[~likely].sum()[None]]) for each in (counts, weights)]
        counts, weights = (each[: len(each) - int(binned[1][-1] == 0)] for each in binned)
        assert chi2(counts, weights) < limit(len(counts))

    def test_a_wide_one_is_not_truncated(self) -> None:
        """50,000 nearly equal tokens: each region of the vocabulary, and of likelihood, gets its share."""
        logits = torch.randn(50_000, generator=torch.Generator().manual_seed(5)) * 0.3
        sampling = Sampling(seed=11, do_sample=True)
        counts = draws_of(sampler(50_000), logits, sampling, 2_000, Part.NOISE)
        weights = logits.double().softmax(-1)
        for order in (torch.arange(50_000), logits.argsort()):
            bins = [each[order].view(20, -1).sum(-1) for each in (counts, weights)]
            assert chi2(*bins) < limit(20)

    def test_a_peaked_one_keeps_its_tail(self) -> None:
        logits = torch.full((1_000,), -9.0)
        logits[7] = 0.0
        sampling = Sampling(seed=3, do_sample=True)
        counts = draws_of(sampler(1_000), logits, sampling, 20_000, Part.NOISE)
        weights = logits.double().softmax(-1)
        bins = [torch.stack([each[7], each.sum() - each[7]]) for each in (counts, weights)]
        assert chi2(*bins) < limit(2)

    @pytest.mark.parametrize("temperature", [1e-9, 1e-4])
    def test_a_tiny_temperature_is_greedy(self, temperature: float) -> None:
        logits = torch.randn(101, generator=torch.Generator().manual_seed(2)) * 50
        sampling = Sampling(seed=1, do_sample=True, temperature=temperature, top_p=0.99)
        assert draws_of(sampler(101), logits, sampling, 50, EVERYTHING)[logits.argmax()] == 50

    def test_a_huge_temperature_is_uniform_over_what_the_filters_keep(self) -> None:
        logits = torch.randn(101, generator=torch.Generator().manual_seed(2)) * 5
        sampling = Sampling(seed=1, do_sample=True, temperature=1e7, top_k=8)
        counts = draws_of(sampler(101), logits, sampling, 20_000, EVERYTHING)
        best = logits.topk(8).indices
        assert counts.sum() == counts[best].sum()
        assert chi2(counts[best], torch.full((8,), 1 / 8, dtype=torch.float64)) < limit(8)


class TestLevels:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 10**6), temperature=st.floats(0.05, 5))
    @settings(max_examples=15, deadline=None)
    def test_a_row_gets_the_same_token_at_every_level_that_suffices(
        self, dtype: torch.dtype, seed: int, position: int, temperature: float
    ) -> None:
        generator = torch.Generator().manual_seed(seed % 1000)
        logits = torch.randn(3, 301, generator=generator, dtype=dtype)
        logits[:, 17] = -math.inf
        rows = [
            (row(0, position), Sampling(seed=seed, do_sample=True, temperature=temperature)),
            (row(1, position), Sampling(seed=seed, do_sample=True, temperature=temperature, top_p=0.7)),
            (row(2, position), Sampling()),
        ]
        chooser = sampler(301, dtype)
        chosen = {level: choose(chooser, logits, rows, level) for level in LEVELS}
        for index, (_, sampling) in enumerate(rows):
            enough = [level for level in LEVELS if parts_of(sampling) & ~level == 0]
            assert len({chosen[level][index] for level in enough}) == 1

    @pytest.mark.parametrize(
        ("sampling", "level"),
        [
            (Sampling(), GREEDY),
            (Sampling(temperature=0.5, top_k=3, top_p=0.5, typical_p=0.5, min_p=0.1), GREEDY),
            (Sampling(min_new_tokens=3), Part.EDIT),
            (Sampling(stop_token_ids=(1,)), GREEDY),
            (Sampling(presence_penalty=0.1), Part.EDIT),
            (Sampling(logit_bias=((1, 0.5),)), Part.EDIT),
            (Sampling(do_sample=True, min_p=0.1), Part.NOISE),
            (Sampling(top_n=1), Part.EDIT | Part.NOISE | Part.TOP_N),
            (Sampling(do_sample=True, top_p=0.9), Part.NOISE | Part.TOP_P),
            (Sampling(do_sample=True, top_k=9), Part.EDIT | Part.NOISE | Part.TOP_K | Part.TOP_P),
            (Sampling(do_sample=True, typical_p=0.9, top_n=1), EVERYTHING & ~Part.MASK),
            (Sampling(constrained=True), Part.MASK),
            (Sampling(constrained=True, min_new_tokens=3), Part.MASK),
            (
                Sampling(constrained=True, do_sample=True),
                Part.MASK | Part.EDIT | Part.NOISE | Part.TOP_K | Part.TOP_P,
            ),
            (Sampling(constrained=True, top_n=1), EVERYTHING),
        ],
    )
    def test_the_cheapest_that_suffices(self, sampling: Sampling, level: Part) -> None:
        assert level_of([(row(position=2), sampling), (row(), Sampling())]) is level

    def test_the_last_suffices_for_all(self) -> None:
        for part in Part:
            assert part in levels_of(watermark=True)[-1]
            assert part in EVERYTHING or part is Part.WATERMARK

    def test_after_the_minimum_the_level_falls(self) -> None:
        short = Sampling(min_new_tokens=3, stop_token_ids=(1,))
        assert level_of([(row(position=3), short)]) is GREEDY

    @pytest.mark.parametrize("level", LEVELS)
    def test_its_calls_have_one_signature(self, level: Part) -> None:
        """What a compiling device compiled for the first call serves them all, opening a slot included."""
        chooser, audits = sampler(97), []
        logits = torch.randn(3, 97, generator=torch.Generator().manual_seed(1))
        kinds = [
            Sampling(),
            Sampling(top_n=5, logit_bias=((1, 2.0), (3, 4.0))),
            *(
                Sampling(**{name: getattr(each, name) for name in Sampling.__slots__} | {"do_sample": True})
                for each in COMBINATIONS
            ),
        ]
        for count, sampling in enumerate(kinds):
            slot = chooser.history.rows_of(1, range(count), range(2 * count), sampling)
            rows = [(row(1, count), sampling)] * (count % 3 + 1)
            inputs = inputs_of(rows, logits, torch.float32, level, range(count + 1))
            with Signatures() as audit:
                chooser.history.write(**slot)
                chooser.planned(level)(logits=logits, **inputs)
            audits.append(audit.seen)
        assert all(seen == audits[0] for seen in audits)


@pytest.mark.full
@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_one_graph_for_a_compiler(level: Part) -> None:
    """Traced whole, with its writes in place made functional, as a graph device asks: the same bits come out."""
    torch.compiler.reset()  # Dynamo keeps eight compiled forms of one code object, and there are more levels
    logits = torch.randn(3, 97, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(do_sample=True, top_k=40, top_p=0.9, typical_p=0.9, frequency_penalty=0.2)
    rows = [(row(1, 3), sampling), (row(2), Sampling(constrained=True))]
    inputs = inputs_of(rows, logits, torch.float32, level, range(0, 97, 2))
    eager, compiled = sampler(97), sampler(97)
    outputs = []
    for chooser, options in ((eager, {"disable": True}), (compiled, {"backend": "aot_eager"})):
        with torch.inference_mode():
            write, choice = (
                torch.compile(function, fullgraph=True, dynamic=False, **options)
                for function in (chooser.history.write, chooser.planned(level))
            )
            write(**chooser.history.rows_of(1, PROMPT, OUTPUT, sampling))
            outputs.append(choice(logits=logits, **inputs)[0])
    assert torch.equal(*outputs)
    assert torch.equal(eager.history.seen, compiled.history.seen)
    assert torch.equal(eager.tokens, compiled.tokens)


class TestMask:
    @pytest.mark.parametrize("level", [level for level in LEVELS if Part.MASK in level])
    @pytest.mark.parametrize("vocab", [31, 32, 33, 97])
    def test_only_what_is_allowed_is_chosen_and_reported(self, vocab: int, level: Part) -> None:
        """Whatever the logits, infinite ones too; a row without a constraint, and padding, may choose anything."""
        logits = torch.randn(4, vocab, generator=torch.Generator().manual_seed(vocab)) * 30
        logits[:, vocab - 1] = -math.inf
        logits[:, 4] = 600
        top = 5 if Part.TOP_N in level else 0
        rows = [(row(slot), Sampling(constrained=slot < 2, top_n=top)) for slot in range(3)]
        for allowed in ({vocab - 1}, {0, vocab - 1}, {3, 5, 30}):
            chosen = choose(sampler(vocab), logits, rows, level, allowed)
            for index, each in enumerate(chosen[:2]):
                best = max(allowed, key=lambda token: float(logits[index, token]))
                assert each.id == best
                assert {token for token, _ in each.top} <= allowed
            assert [each.id for each in chosen[2:]] == [4, 4]

    def test_the_logprob_is_renormalised_over_what_is_allowed(self) -> None:
        logits = torch.tensor([[0.0, 1.0, 5.0, 2.0]])
        (chosen,) = choose(sampler(4), logits, [(row(), Sampling(constrained=True))], Part.MASK, {0, 1, 3})
        assert chosen.id == 3
        assert chosen.logprob == pytest.approx(float(logits[0, [0, 1, 3]].log_softmax(-1)[2]), abs=1e-6)


class TestHistory:
    def test_repetition_counts_prompt_and_output(self) -> None:
        chooser = sampler(6)
        logits = torch.tensor([[0.0, 0.0, 0.0, 2.0, -1.0, 1.5]])
        strong = opened(chooser, 1, Sampling(repetition_penalty=2.0), prompt=[3, 3], output=[4])
        chosen = choose(chooser, logits, [(row(1), strong)])
        assert ids_of(chosen) == [5]  # 2.0 / 2 falls below 1.5, and -1.0 * 2 further down
        weak = opened(chooser, 1, Sampling(repetition_penalty=0.5), prompt=[3, 3], output=[4])
        assert ids_of(choose(chooser, logits, [(row(1), weak)])) == [3]

    @pytest.mark.parametrize(
        ("penalty", "third"), [({"frequency_penalty": 0.6}, 1), ({"presence_penalty": 0.6}, 0)]
    )
    def test_frequency_grows_with_each_token_and_presence_does_not(self, penalty: Any, third: int) -> None:
        chooser = sampler(3)
        sampling = opened(chooser, 0, Sampling(**penalty), prompt=[0, 0, 0])  # the prompt does not count
        logits = torch.tensor([[2.0, 1.0, -5.0]])
        tokens = [choose(chooser, logits, [(row(0, i), sampling)])[0].id for i in range(3)]
        assert tokens == [0, 0, third]

    def test_only_sampled_rows_with_penalties_are_counted(self) -> None:
        chooser = sampler(3)
        sampling = opened(chooser, 0, Sampling(presence_penalty=1.0))
        biased = opened(chooser, 1, Sampling(logit_bias=((1, 1.0),)))
        rows = [(row(0, sample=False), sampling), (row(1), biased), (row(2), Sampling())]
        choose(chooser, torch.tensor([[9.0, 0.0, 0.0]]).expand(4, 3), rows)
        assert (chooser.history.seen & COUNTS).sum() == 0

    def test_a_bias_of_100_forces_or_bans(self) -> None:
        chooser = sampler(5)
        logits = torch.tensor([[3.0, 1.0, 2.0, 0.0, -9.0]])
        forced = opened(chooser, 0, Sampling(logit_bias=((4, 100.0),)))
        banned = opened(chooser, 1, Sampling(logit_bias=((0, -100.0), (2, -100.0))))
        both = [(row(0), forced), (row(1), banned)]
        assert ids_of(choose(chooser, logits.expand(2, 5), both)) == [4, 1]

    def test_opening_a_slot_forgets_its_last_sequence(self) -> None:
        chooser = sampler(6)
        opened(chooser, 1, Sampling(logit_bias=((0, 1.0),)), prompt=[3], output=[4, 4])
        opened(chooser, 1, Sampling(logit_bias=((1, 2.0),)), prompt=[5, 2], output=[2])
        seen = chooser.history.seen.view(-1, 6)
        assert (seen[1] & COUNTS).tolist() == [0, 0, 3, 0, 0, 1]
        assert chooser.history.bias[1].tolist() == [0, 2, 0, 0, 0, 0]
        assert (seen[[0, 2, 3, 4]] & COUNTS).sum() == 0

    @pytest.mark.parametrize("resumed_at", [0, 1, 7, 12])
    def test_a_sequence_goes_on_the_same_alone_in_company_resumed_and_in_another_slot(
        self, resumed_at: int
    ) -> None:
        vocab = 211
        sampling = Sampling(
            seed=9,
            do_sample=True,
            temperature=1.5,
            top_p=0.9,
            typical_p=0.95,
            repetition_penalty=1.3,
            frequency_penalty=0.3,
            presence_penalty=0.2,
            logit_bias=((4, 1.0),),
            min_new_tokens=5,
        )
        logits = torch.randn(12, vocab, generator=torch.Generator().manual_seed(8)) * 2
        chooser, alone = sampler(vocab), list[int]()
        opened(chooser, 0, sampling, PROMPT)
        for position in range(12):
            alone += ids_of(choose(chooser, logits[[position]], [(row(0, position), sampling)]))
        output = alone[:resumed_at]
        other = opened(chooser, 0, Sampling(presence_penalty=1.0))
        opened(chooser, 3, sampling, PROMPT, output)
        for position in range(resumed_at, 12):
            rows = [
                (row(0, position), other),
                (row(3, position), sampling),
                (row(1), Sampling(do_sample=True, top_k=3)),
            ]
            output.append(choose(chooser, logits[position].expand(4, -1), rows)[1].id)
        assert output == alone

    def test_the_end_is_banned_until_enough_tokens_are_there(self) -> None:
        logits = torch.tensor([[0.0, 1.0, 5.0]])
        for position, token in ((0, 1), (1, 1), (2, EOS)):
            chosen = choose(sampler(3), logits, [(row(position=position), Sampling(min_new_tokens=2))])
            assert ids_of(chosen) == [token]
            assert chosen[0].logprob <= 0

    def test_so_are_the_tokens_that_end_this_sequence_and_no_other(self) -> None:
        chooser, logits = sampler(4), torch.tensor([[0.0, 4.0, 5.0, 1.0]])
        sampling = Sampling(min_new_tokens=3, stop_token_ids=(1,), presence_penalty=0.25)
        opened(chooser, 0, sampling, output=[3, 3])
        other = Sampling(min_new_tokens=3)
        for position, tokens in ((2, [3, 1]), (3, [EOS, EOS])):
            rows = [(row(0, position), sampling), (row(1, position), other)]
            assert ids_of(choose(chooser, logits.expand(2, 4), rows)) == tokens
        opened(chooser, 0, other)
        assert ids_of(choose(chooser, logits, [(row(0), other)])) == [1], "the slot has forgotten"

    @pytest.mark.parametrize("penalty", [1e-30, 1e30])
    def test_an_absurd_penalty_stays_finite(self, penalty: float) -> None:
        chooser = sampler(3)
        sampling = opened(chooser, 0, Sampling(repetition_penalty=penalty), prompt=[0, 1])
        chosen = choose(chooser, torch.tensor([[50.0, -math.inf, -3.0]]), [(row(0), sampling)])
        assert ids_of(chosen) == [0]


class TestReport:
    def test_the_logprob_is_before_temperature_and_filters(self) -> None:
        logits = torch.tensor([[1.0, 2.0, 3.0]])
        sampling = Sampling(do_sample=True, temperature=0.01, top_k=1)
        (chosen,) = choose(sampler(3), logits, [(row(), sampling)])
        assert chosen.logprob == pytest.approx(float(logits.log_softmax(-1)[0, 2]))

    @pytest.mark.parametrize("vocab", [5, 20, 33, 50_257])
    @pytest.mark.parametrize("distinct", [2, 7, 10**9])
    def test_the_likeliest_come_first_and_of_equals_the_lowest_id(self, vocab: int, distinct: int) -> None:
        generator = torch.Generator().manual_seed(distinct % 1000)
        logits = torch.randint(distinct, (3, vocab), generator=generator).float()
        n = min(vocab, MOST_TOP_N)
        expected = [sorted(range(vocab), key=lambda t: (-float(each[t]), t))[:n] for each in logits]
        assert likeliest(logits, n).tolist() == expected

    def test_each_row_gets_as_many_as_it_asked_for(self) -> None:
        logits = torch.tensor([[1.0, 4.0, 2.0, 3.0]]).expand(3, 4)
        rows = [(row(slot), Sampling(top_n=n)) for slot, n in enumerate((0, 2, 20))]
        none, two, all_ = choose(sampler(4), logits, rows)
        expected: list[tuple[int, Any]] = [
            (t, pytest.approx(float(logits[0].log_softmax(-1)[t]))) for t in (1, 3, 2, 0)
        ]
        assert none.top == ()
        assert list(two.top) == expected[:2]
        assert list(all_.top) == expected
        assert two.top[0] == (two.id, two.logprob)

    def test_what_cannot_come_is_not_reported(self) -> None:
        logits = torch.tensor([[1.0, -math.inf, 9.0, 2.0]])
        (chosen,) = choose(sampler(4), logits, [(row(), Sampling(top_n=4, min_new_tokens=1))])
        assert [token for token, _ in chosen.top] == [3, 0]

    def test_the_tokens_of_sampled_rows_stay_on_the_device(self) -> None:
        chooser = sampler(8)
        chooser.tokens.fill_(5)
        logits = torch.eye(8)[[3, 4, 6, 7]]
        rows = [(row(2), Sampling()), (row(0, sample=False), Sampling()), (row(1), Sampling())]
        for level in LEVELS:
            choose(chooser, logits, rows, level)
            assert chooser.tokens[:SLOTS].tolist() == [5, 6, 3, 5]

    def test_ids_are_exact_in_what_the_host_reads(self) -> None:
        assert torch.tensor([MOST_TOKENS - 1], dtype=torch.int64).float().long() == MOST_TOKENS - 1
        check_vocab(MOST_TOKENS)
        with pytest.raises(ValueError, match="cannot be sampled"):
            check_vocab(MOST_TOKENS + 1)

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("share", [1, 30])
    def test_nan_is_an_error_at_every_level(self, level: Part, share: int) -> None:
        logits = torch.zeros(1, 30)
        logits[0, :share] = math.nan
        with pytest.raises(FloatingPointError, match="NaN"):
            choose(sampler(30), logits, [(row(), Sampling(do_sample=True, top_n=3))], level)
