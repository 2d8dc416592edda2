"""What we serve is what transformers generates: token by token, in float64, whoever else is in the batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from models.devices import Cpu
from models.families import FAMILIES, TRANSFORMERS
from models.plan import LAYOUTS
from models.step import Sampling
from tests.models.drive import Driver, Reference, drive, runner_of, sequence
from tests.support import tiny

# transformers 4.55 scripts a function of GPTBigCode when it is imported, and torch 2.13 says that this will go.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

LENGTHS = (1, 3, 16, 17, 33, 50, 64, 70, 24, 90)
NEW = 16
SERVED = [
    name
    for name, (model_type, _) in tiny.VARIANTS.items()
    if model_type in FAMILIES and name not in tiny.REFUSED and FAMILIES[model_type].since <= TRANSFORMERS
]
EVERY_TIME = {  # one of each mechanism
    "llama3-rope", "mistral-window", "gemma2", "gpt_bigcode", "mixtral", "gpt_oss", "falcon-40b", "deepseek_v3",
}  # fmt: skip


def prompts(seed: int = 1) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(3, tiny.VOCAB) for _ in range(length)] for length in LENGTHS]


def test_every_supported_family_has_a_tiny_model() -> None:
    known = {row.model_type for row in FAMILIES.values() if row.since <= TRANSFORMERS}
    assert {tiny.VARIANTS[name][0] for name in SERVED} == known
    assert set(SERVED) >= EVERY_TIME


def case(variant: str, layout: str) -> Any:
    """Of every family in every layout only each mechanism, in the CPU's own layout, runs every time."""
    often = variant in EVERY_TIME and layout == Cpu().layout
    return pytest.param(variant, layout, marks=() if often else pytest.mark.full)


@pytest.mark.parametrize(("variant", "layout"), [case(*each) for each in product(SERVED, LAYOUTS)])
def test_ten_prompts_that_join_and_leave_get_the_tokens_of_generate(
    variant: str, layout: str, model_of: Callable[[str], Path]
) -> None:
    """Also when they come again, and find their beginnings in the prefix cache."""
    folder = model_of(variant)
    runner = runner_of(folder, layout=layout)
    driver = Driver(runner)
    sequences = [sequence(prompt, NEW) for prompt in prompts()]
    driver.run(sequences, joins=lambda index: 3 * index)
    assert driver.scheduler.hit_tokens == 0
    again = [sequence(prompt, NEW) for prompt in prompts()]
    driver.run(again[::-1], joins=lambda index: index)
    assert driver.scheduler.hit_tokens > 0
    reference = Reference(folder, FAMILIES[tiny.VARIANTS[variant][0]].reference)
    for each, later in zip(sequences, again, strict=True):
        assert each.output == later.output == reference.greedy(each.prompt, NEW)
        # DeepSeek's routers and V2's rotation, and the softmax of the eager attention, round to float32.
        expected = pytest.approx(reference.logprobs(each.prompt, each.output), abs=1e-5)
        assert driver.logprobs[each] == expected
        assert driver.logprobs[later] == expected
    assert runner.compilations == 0


def test_chunks_preemption_and_resume_change_no_token(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    whole = runner_of(folder, prefill_chunk=128, prefill_batch=1, slots=1)
    expected = [sequence(prompt, NEW) for prompt in prompts()]
    drive(whole, expected)
    scarce = runner_of(
        folder, prefill_chunk=7, prefill_batch=3, block_size=8, kv_blocks=18
    )  # one long one fits
    again = [sequence(prompt, NEW) for prompt in prompts()]
    drive(scarce, again)
    resumed = [sequence(each.prompt, NEW, output=each.output[:5]) for each in expected]
    drive(scarce, resumed)
    for was, now, later in zip(expected, again, resumed, strict=True):
        assert was.output == now.output == later.output


def test_sampled_tokens_do_not_depend_on_the_company(model_of: Callable[[str], Path]) -> None:
    """Alone, together, in another order and resumed: the same tokens, penalties and filters included."""
    runner = runner_of(model_of("llama"), slots=8, kv_blocks=80)
    settings = [
        Sampling(seed=7, do_sample=True),
        Sampling(seed=7, do_sample=True, temperature=0.7, top_p=0.9),
        Sampling(seed=8, do_sample=True, top_k=5, repetition_penalty=1.3),
        Sampling(
            seed=9, do_sample=True, typical_p=0.8, min_p=0.01, frequency_penalty=0.5, presence_penalty=-0.3
        ),
        Sampling(),
        Sampling(repetition_penalty=1.5, min_new_tokens=4, logit_bias=((9, 2.5), (11, -100.0))),
        Sampling(seed=17, do_sample=True),
    ]
    work = list(zip(prompts()[: len(settings)], settings, strict=True))
    alone = [sequence(prompt, NEW, sampling) for prompt, sampling in work]
    for each in alone:
        drive(runner, [each])
    together = [sequence(prompt, NEW, sampling) for prompt, sampling in work]
    drive(runner, together[::-1], joins=lambda index: index % 3)
    resumed = [sequence(each.prompt, NEW, each.sampling, each.output[:6]) for each in alone]
    drive(runner, resumed)
    for was, now, later in zip(alone, together, resumed, strict=True):
        assert was.output == now.output == later.output
    assert runner.compilations == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "variant", ["llama", *(pytest.param(v, marks=pytest.mark.full) for v in sorted(EVERY_TIME))]
)
def test_other_dtypes_serve(variant: str, dtype: str, model_of: Callable[[str], Path]) -> None:
    runner = runner_of(model_of(variant), dtype=dtype)
    sequences = [sequence(prompt, 4) for prompt in prompts()[:3]]
    drive(runner, sequences)
    assert runner.info.dtype == dtype
    assert all(len(each.output) == 4 for each in sequences)
