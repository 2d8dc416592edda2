"""Choices of one prompt on real models: one prefill, and the tokens of separate jobs; in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.plan import LAYOUTS
from models.runner import PagedRunner
from models.step import Sampling
from tests.models.audit import Audit
from tests.models.drive import Driver, drive, quiet, runner_of, sequence
from tests.models.test_exactness import prompts
from worker.sequence import Sequence

Maker = Callable[[str], Path]

NEW = 12
WISH = Sampling(seed=3, do_sample=True, temperature=0.9, top_p=0.95, frequency_penalty=0.3)


def choices(prompt: list[int], size: int, new: int = NEW) -> list[Sequence]:
    """A group."""
    return [sequence(prompt, new, replace(WISH, seed=choice), group=1) for choice in range(size)]


def alone(runner: PagedRunner, prompt: list[int], size: int, new: int = NEW) -> list[list[int]]:
    """What each choice says when it is by itself."""
    texts = []
    for choice in range(size):
        one = sequence(prompt, new, replace(WISH, seed=choice))
        drive(runner, [one])
        texts.append(list(one.output))
    return texts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "variant",
    [
        "llama",
        *(
            pytest.param(name, marks=pytest.mark.full)
            for name in ("mistral-window", "mixtral", "deepseek_v3")
        ),
    ],
)
def test_choices_of_one_prefill_are_those_of_separate_jobs(
    variant: str, layout: str, model_of: Maker
) -> None:
    runner = runner_of(model_of(variant), layout=layout, depth=2, prefix_cache=False)
    for prompt in prompts()[:3]:
        driver = Driver(runner, prefix_cache=False)
        crowd = choices(prompt, 4)
        driver.run(crowd)
        texts = [each.output for each in crowd]
        assert texts == alone(runner, prompt, 4) and len({*map(tuple, texts)}) > 1
        assert driver.scheduler.prompt_tokens - driver.scheduler.hit_tokens == len(prompt)


def test_choices_that_are_preempted_are_the_same(model_of: Maker) -> None:
    """Beside others, in so few blocks that nobody gets through undisturbed."""
    runner = runner_of(model_of("llama"), kv_blocks=9, max_total_tokens=128)
    prompt = prompts()[1][:20]
    crowd = [*choices(prompt, 4, 40), *(sequence(each[:30], NEW, WISH) for each in prompts()[2:6])]
    driver = Driver(runner)
    driver.run(crowd)
    assert driver.scheduler.preemptions > 0
    assert [each.output for each in crowd[:4]] == alone(runner, prompt, 4, 40)


def test_deterministic_choices_are_the_same_to_the_bit(model_of: Maker) -> None:
    runner = runner_of(
        model_of("llama"), dtype="bfloat16", deterministic=True, slots=8, layout="gather", prefill_batch=1
    )
    prompt = prompts()[1]
    crowd = choices(prompt, 4)
    together = drive(runner, [*crowd, *(sequence(each, NEW, WISH) for each in prompts()[2:5])])
    for choice, each in enumerate(crowd):
        one = sequence(prompt, NEW, replace(WISH, seed=choice))
        assert drive(runner, [one])[one] == together[each]


def test_they_bring_no_new_shape(model_of: Maker) -> None:
    from models.load import load
    from models.step import LoadSpec

    spec = LoadSpec(
        model_id=str(model_of("llama")), dtype="float32", slots=4, kv_blocks=33, max_total_tokens=96, depth=2
    )
    audit = Audit(load(spec, quiet))
    driver = Driver(audit.runner)
    for size, prompt in zip((2, 3, 4, 4, 2), prompts(), strict=False):
        driver.run([*choices(prompt[:40], size), sequence(prompt[:9], NEW, Sampling(constrained=True))])
    assert audit.new == set() and audit.waits.total() == audit.reads.total() == 0
