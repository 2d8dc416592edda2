"""DETERMINISTIC=true: tokens and log-probabilities to the last bit, whoever else runs, and wherever it is resumed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.errors import ModelRefused
from models.load import load
from models.runner import PagedRunner
from models.step import LoadSpec, Sampling
from tests.models.drive import Driver, drive, quiet, runner_of, sequence
from tests.models.test_exactness import EVERY_TIME, SERVED
from tests.support import tiny
from worker.sequence import Sequence

NEW = 40
LENGTHS = (1, 16, 17, 33, 50, 64, 70, 24)
ROWS = 8
LOW_PRECISION = ("float32", "bfloat16")
CHEAP = "llama3-rope"


def sampling_of(index: int) -> Sampling:
    """Every third greedy, the others with filters and penalties."""
    if index % 3 == 0:
        return Sampling(top_n=index % 2)
    return Sampling(
        seed=index,
        do_sample=True,
        temperature=0.9,
        top_p=0.95,
        top_k=50 * (index % 2),
        repetition_penalty=1.1,
    )


def requests(outputs: list[list[int]] | None = None) -> list[Sequence]:
    chance = random.Random(1)
    prompts = [[chance.randrange(3, tiny.VOCAB) for _ in range(length)] for length in LENGTHS]
    given = outputs or [[] for _ in prompts]
    return [
        sequence(prompt, NEW, sampling_of(index), output)
        for index, (prompt, output) in enumerate(zip(prompts, given, strict=True))
    ]


def runner_for(folder: Path, dtype: str, **limits: int) -> PagedRunner:
    return runner_of(folder, dtype=dtype, slots=ROWS, prefill_batch=0, deterministic=True, **limits)


def case(variant: str) -> object:
    marks = () if variant == CHEAP else pytest.mark.full
    return pytest.param(variant, marks=marks)


@pytest.mark.parametrize("dtype", LOW_PRECISION)
@pytest.mark.parametrize("variant", [case(name) for name in SERVED if name in EVERY_TIME])
def test_alone_in_a_crowd_and_resumed_it_is_the_same_to_the_bit(
    variant: str, dtype: str, model_of: Callable[[str], Path]
) -> None:
    runner = runner_for(model_of(variant), dtype)
    texts, scores = [], []
    for each in requests():
        scores.append(drive(runner, [each])[each])
        texts.append(each.output)

    crowd = requests()
    driver = Driver(runner)
    driver.run(crowd, lambda index: 2 * index)
    assert driver.scheduler.preemptions, "32 blocks were meant not to suffice"
    assert [each.output for each in crowd] == texts
    assert [driver.logprobs[each] for each in crowd] == scores

    cuts = [5 * index % NEW for index in range(len(texts))]
    resumed = requests([text[:cut] for text, cut in zip(texts, cuts, strict=True)])
    again = drive(runner, resumed, lambda index: index)
    assert [each.output for each in resumed] == texts
    assert [again[each] for each in resumed] == [score[cut:] for score, cut in zip(scores, cuts, strict=True)]


def test_another_worker_of_the_same_plan_goes_on_alike(model_of: Callable[[str], Path]) -> None:
    one, other = (runner_for(model_of("llama3-rope"), "bfloat16") for _ in range(2))
    assert one.plan.digest == other.plan.digest
    begun = requests()
    drive(one, begun)
    resumed = requests([each.output[:17] for each in begun])
    drive(other, resumed)
    assert [each.output for each in resumed] == [each.output for each in begun]


def test_decode_runs_whole_batches_of_few_widths(model_of: Callable[[str], Path]) -> None:
    plan = runner_for(model_of("llama3-rope"), "float32").plan
    assert {bucket.batch for bucket in plan.buckets if bucket.phase == "decode"} == {ROWS}
    assert {bucket.batch for bucket in plan.buckets if bucket.phase == "prefill"} == {1}
    assert 1 < sum(bucket.phase == "decode" for bucket in plan.buckets) <= 3


def test_a_device_whose_kernels_tell_rows_apart_is_refused(model_of: Callable[[str], Path]) -> None:
    spec = LoadSpec(
        model_id=str(model_of("llama3-rope")), slots=ROWS, max_total_tokens=128, deterministic=True
    )
    runner = load(spec, quiet)

    def favour_the_last(head: torch.nn.Module, args: object, logits: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(logits), device=logits.device)[:, None, None]
        return torch.where(rows == ROWS - 1, logits * 1.01, logits)

    runner._parts.forward.model.lm_head.register_forward_hook(favour_the_last)
    with pytest.raises(ModelRefused, match=f"of {ROWS} equal rows .* computes row {ROWS - 1} otherwise"):
        runner.warm_up(quiet)


def test_a_layout_that_cannot_be_deterministic_is_refused(model_of: Callable[[str], Path]) -> None:
    spec = LoadSpec(model_id=str(model_of("llama3-rope")), deterministic=True, layout="flat")
    with pytest.raises(ModelRefused, match="leave both out"):
        load(spec, quiet)
