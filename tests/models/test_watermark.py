"""The watermark: the same green lists everywhere, logits raised before all else, texts that a detector finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.demo import WEIGHTS
from models.levels import GREEDY, LEVELS, Part, levels_of
from models.sampler import Sampler, report
from models.step import Row, Sampled, Sampling
from models.watermark import Watermark
from models.wishes import Wishes
from tests.models.drive import drive, runner_of, sequence
from tests.models.test_sampler import CPU, EOS, SLOTS, chi2, limit, row
from tests.models.test_sampler import opened as open_slot

VOCAB = 200
LEVELS_WITH = levels_of(watermark=True)
TGI = Watermark(gamma=0.5, delta=2.0)


def sampler(watermark: Watermark = TGI, vocab: int = VOCAB) -> Sampler:
    return Sampler(SLOTS, vocab, [EOS], torch.float32, CPU, watermark)


def green(watermark: Watermark, previous: int, vocab: int = VOCAB) -> Tensor:
    """[V]: 1 where the token is green after that one."""
    zeros = torch.zeros(1, vocab, dtype=torch.float64)
    return (
        watermark.marked(zeros, torch.tensor([[previous]], dtype=torch.int32), torch.ones(1, 1))[0]
        / watermark.delta
    )


def mix(x: int) -> int:
    """lowbias32, in plain integers."""
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def choose(
    chooser: Sampler, logits: Tensor, rows: Sequence[tuple[Row, Sampling]], level: Part | None = None
) -> list[Sampled]:
    wishes = Wishes(SLOTS, chooser.dtype, LEVELS_WITH)
    for each, sampling in rows:
        wishes.set(each.slot, sampling)
    steps = [each for each, _ in rows]
    level = wishes.level(steps) if level is None else level
    (chosen,) = chooser.planned(level)(logits=logits, **wishes.inputs(steps, len(logits)))
    return [report(each, 0) for each in chosen.tolist()]


def after(previous: int, slot: int = 0, position: int = 0) -> Row:
    """A row that prefills that token."""
    return replace(row(slot, position), ids=(5, previous))


class TestGreen:
    @pytest.mark.parametrize("gamma", [0.25, 0.5, 0.9])
    @pytest.mark.parametrize("previous", [0, 1, 77, 128_255])
    def test_a_hash_of_both_tokens_decides(self, gamma: float, previous: int) -> None:
        low = [
            mix((mix(token ^ (previous * 15_485_863 & 0xFFFFFFFF)) + previous) & 0xFFFFFFFF)
            for token in range(VOCAB)
        ]
        expected = [((bits + 2**31) & 0xFFFFFFFF) < round(gamma * 2**32) for bits in low]
        assert green(Watermark(gamma, 1.5), previous).tolist() == [float(each) for each in expected]

    @pytest.mark.parametrize("gamma", [0.1, 0.5])
    def test_lists_have_their_share_and_nothing_in_common(self, gamma: float) -> None:
        """Of 400 lists of 2,000: means and covariances as of independent draws, by five standard deviations."""
        lists = torch.stack([green(Watermark(gamma, 1.0), previous, 2_000) for previous in range(400)])
        deviation = (lists - gamma) / math.sqrt(gamma * (1 - gamma))
        for axis in (0, 1):
            mean = deviation.mean(axis)
            assert mean.abs().max() < 5 / math.sqrt(lists.shape[axis])
        together = (deviation @ deviation.T / 2_000).fill_diagonal_(0)
        assert together.abs().max() < 6 / math.sqrt(2_000)


class TestSampler:
    @pytest.mark.parametrize("level", LEVELS_WITH[len(LEVELS) :])
    def test_green_logits_are_raised_by_delta(self, level: Part) -> None:
        logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(1))
        marked, plain = choose(
            sampler(), logits, [(after(9), Sampling(watermark=True)), (after(9, 1), Sampling())], level
        )
        raised = logits[0] + 2 * green(TGI, 9).float()
        assert (marked.id, plain.id) == (int(raised.argmax()), int(logits[1].argmax()))
        assert marked.logprob == pytest.approx(float(raised.log_softmax(-1).max()), abs=1e-5)
        assert plain.logprob == pytest.approx(float(logits[1].log_softmax(-1).max()), abs=1e-5)

    def test_who_wants_none_gets_the_same_token_beside_one_who_does(self) -> None:
        logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(2))
        logits[0, :9] = -math.inf
        for sampling in (Sampling(), Sampling(seed=4, do_sample=True)):
            plain = choose(sampler(), logits, [(after(3), sampling)])
            for level in LEVELS_WITH[len(LEVELS) :]:
                assert choose(sampler(), logits, [(after(3), sampling)], level) == plain

    def test_it_comes_before_the_penalties(self) -> None:
        """A logit of -1 that is raised to 1 is divided by the repetition penalty, not multiplied; as in TGI."""
        chooser, token = sampler(), int(green(TGI, 9).argmax())
        sampling = open_slot(chooser, 0, Sampling(watermark=True, repetition_penalty=4.0), prompt=[token])
        logits = torch.full((1, VOCAB), -50.0)
        logits[0, token] = -1.0
        (chosen,) = choose(chooser, logits, [(after(9), sampling)])
        logits[0, token] = 0.25
        rest = logits + 2 * green(TGI, 9).float()
        rest[0, token] = 0.25
        assert chosen.id == token
        assert chosen.logprob == pytest.approx(float(rest.log_softmax(-1)[0, token]), abs=1e-5)

    def test_a_decode_row_goes_by_the_token_that_its_slot_sampled(self) -> None:
        chooser, logits = sampler(Watermark(0.5, 50.0)), torch.zeros(2, VOCAB)
        rows = [(after(9), Sampling(watermark=True)), (after(11, 3), Sampling(watermark=True))]
        first = choose(chooser, logits, rows)
        decoding = [(replace(each, ids=()), sampling) for each, sampling in rows]
        second = choose(chooser, logits, decoding[::-1])[::-1]
        for one, two in zip(first, second, strict=True):
            assert two.id == int(green(TGI, one.id).argmax())

    def test_the_distribution_is_that_of_the_raised_logits(self) -> None:
        logits = torch.randn(41, generator=torch.Generator().manual_seed(3))
        sampling, draws = Sampling(seed=6, do_sample=True, temperature=0.8, watermark=True), 20_000
        rows = [(after(7, position=position), sampling) for position in range(draws)]
        ids = [each.id for each in choose(sampler(vocab=41), logits.expand(draws, -1), rows)]
        counts = torch.tensor(ids).bincount(minlength=41).double()
        assert chi2(counts, ((logits.double() + 2 * green(TGI, 7, 41)) / 0.8).softmax(-1)) < limit(41)

    def test_it_is_one_graph_for_a_compiler(self) -> None:
        logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(4))
        wishes = Wishes(SLOTS, torch.float32, LEVELS_WITH)
        wishes.set(0, Sampling(watermark=True))
        inputs = wishes.inputs([after(9), row(1)], 2)
        with torch.inference_mode():
            (eager,) = sampler().planned(LEVELS_WITH[-1])(logits=logits, **inputs)
            whole = torch.compile(
                sampler().planned(LEVELS_WITH[-1]), fullgraph=True, dynamic=False, backend="aot_eager"
            )
            (compiled,) = whole(logits=logits, **inputs)
        assert torch.equal(eager, compiled)

    def test_levels_that_mark_are_planned_where_it_is_enabled(self) -> None:
        assert not any(Part.WATERMARK in level for level in levels_of(watermark=False))
        wishes = Wishes(SLOTS, torch.float32, LEVELS_WITH)
        wishes.set(0, Sampling(watermark=True))
        assert wishes.level([row(0)]) is Part.NOISE | Part.WATERMARK
        assert wishes.level([row(1)]) is GREEDY


class TestDetector:
    def test_chance_has_a_score_of_unit_variance(self) -> None:
        chance = np.random.default_rng(1)
        for watermark in (TGI, Watermark(0.25, 2.0)):
            scores = [watermark.z_score(chance.integers(0, 50_000, 200).tolist()) for _ in range(300)]
            assert abs(np.mean(scores)) < 0.3 and 0.85 < np.std(scores) < 1.15

    def test_what_is_all_green_has_the_root_of_its_length(self) -> None:
        ids = [3]
        while len(ids) < 101:
            favoured = green(TGI, ids[-1], 2_000).nonzero()[:, 0].tolist()
            ids.append(next(token for token in favoured if token not in ids))
        assert TGI.z_score(ids) == pytest.approx(10.0)
        assert TGI.z_score([*ids, *ids[-2:], ids[-2]]) < 10.5, "a pair counts once"
        assert TGI.z_score([3]) == TGI.z_score([]) == 0.0

    @pytest.mark.parametrize("watermark", [TGI, Watermark(0.25, 6.0)])
    def test_watermarked_texts_of_the_demo_model_are_told_from_others(self, watermark: Watermark) -> None:
        """With TGI's numbers by six texts together, for the model is often certain; with stronger ones by each."""
        tokens, prompts = 240, [[1, *range(300 + 7 * index, 306 + 7 * index)] for index in range(6)]
        limits = {"max_total_tokens": 256, "kv_blocks": 0, "graphs": 6, "dtype": "float32"}
        runner = runner_of(
            WEIGHTS, watermark_gamma=watermark.gamma, watermark_delta=watermark.delta, **limits
        )
        scores: dict[bool, list[float]] = {}
        for marked in (True, False):
            sampling = Sampling(seed=5, do_sample=True, temperature=1.2, watermark=marked)
            running = [sequence(prompt, tokens, sampling) for prompt in prompts]
            resumed = sequence(prompts[0], tokens, sampling)
            drive(runner, running)
            resumed.output.extend(running[0].output[:100])
            drive(runner, [resumed])
            assert resumed.output == running[0].output
            scores[marked] = [watermark.z_score([*each.prompt[-1:], *each.output]) for each in running]
        together = {marked: sum(each) / math.sqrt(len(each)) for marked, each in scores.items()}
        assert together[True] > 4 > abs(together[False]), scores
        assert max(map(abs, scores[False])) < 4
        assert watermark is TGI or min(scores[True]) > 4, scores
        assert runner.compilations == 0
