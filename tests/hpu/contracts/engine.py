"""The engine on the stand-in: what the CPU serves, token by token, and nothing compiled, read or left to the host.

`python -m tests.hpu.contracts.engine FOLDER [few]` on a machine of tests/hpu/profiles.py prints what it saw as JSON;
with `few` the sampler has two levels, for torch.compile traces each of them for long.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models import levels
from models.runner import PagedRunner
from models.step import Allowed, Pending, Sampling, Step
from tests.models.drive import Driver, quiet, runner_of, sequence
from tests.models.test_exactness import NEW, prompts
from worker.sequence import Sequence

LIMITS: dict[str, Any] = {"slots": 2, "graphs": 4, "layout": "flat", "block_size": 16, "watermark_gamma": 0.5}
"""Few programs, for Dynamo traces each of them; fourteen sequences share two slots all the same."""
WISHES = (
    Sampling(),
    Sampling(seed=7, do_sample=True, temperature=0.7, top_p=0.9),
    Sampling(seed=8, do_sample=True, top_k=5, repetition_penalty=1.3, typical_p=0.8, top_n=3),
    Sampling(frequency_penalty=0.5, presence_penalty=-0.3, logit_bias=((9, 2.5), (11, -100.0))),
    Sampling(seed=9, do_sample=True, top_p=0.95, constrained=True),
    Sampling(min_new_tokens=NEW, stop_token_ids=(9, 11)),
    Sampling(seed=9, do_sample=True, watermark=True),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a test asks of one run on the stand-in."""

    compilations: int
    """As the runner counts them."""
    new_recipes: int
    first_launches: int
    fallbacks: dict[str, int]
    syncs: dict[str, int]
    copies_out: int
    wanted: int
    """What the steps were to give: the tokens of a round are one copy, and so are a step's scores."""
    blocks_copied: int
    """For choices that write into what they shared."""
    tokens_equal: bool
    """To the CPU's, of every sequence."""
    furthest: float
    """The largest difference of a log-probability from the CPU's."""
    strategy: str


class Counted:
    """Counts what steps are to give, and asks at each what was compiled, as the engine does: that must not wait."""

    def __init__(self, runner: PagedRunner) -> None:
        self._runner, self._launch = runner, runner.launch
        self.wanted = self.compilations = self.copies = 0

    def __call__(self, step: Step, allowed: Allowed | None = None) -> Pending:
        self.wanted += len(step.rounds) * any(row.sample for row in step.rows)
        self.wanted += step.bucket.phase == "score"
        self.copies += len(step.copies)
        self.compilations = max(self.compilations, self._runner.compilations)
        return self._launch(step, allowed)


def crowd() -> list[Sequence]:
    """Ten sequences of every kind of wish, some to be scored; then two choices of each of two prompts."""
    alone = [
        sequence(prompt, NEW, WISHES[index % len(WISHES)], prompt_logprobs=index % 3 == 2)
        for index, prompt in enumerate(prompts())
    ]
    together = [
        sequence(prompts()[group], NEW, replace(wish, seed=seed), group=group)
        for group, wish in ((1, WISHES[2]), (3, WISHES[4]))
        for seed in (20, 21)
    ]
    return alone + together


def served(runner: Any) -> tuple[list[list[int]], list[float]]:
    """All tokens, and all numbers that came with them."""
    driver, sequences = Driver(runner), crowd()
    driver.run(sequences, joins=lambda index: 3 * min(index, 10))
    numbers = [number for each in sequences for number in (*driver.logprobs[each], *each.scores)]
    return [list(each.output) for each in sequences], numbers


def warm(folder: Path, device: str) -> Any:
    """A runner whose whole plan is warmed up."""
    runner = runner_of(folder, device=device, **LIMITS)
    while len(runner.plan) < len(runner.whole):
        runner.grow(quiet)
    return runner


def run(folder: Path) -> Seen:
    """Serve the crowd on the CPU, then on the card with its ledger sealed."""
    tokens, numbers = served(warm(folder, "cpu"))
    runner = warm(folder, "hpu")
    from habana_frameworks.stand_in import LEDGER

    counted = runner.launch = Counted(runner)
    before = LEDGER.recipes, LEDGER.cold, LEDGER.fallbacks.copy(), LEDGER.syncs.copy(), LEDGER.copies_out
    with LEDGER.sealed():
        got, seen = served(runner)
    return Seen(
        compilations=max(counted.compilations, runner.compilations),
        new_recipes=LEDGER.recipes - before[0],
        first_launches=LEDGER.cold - before[1],
        fallbacks=dict(LEDGER.fallbacks - before[2]),
        syncs=dict(LEDGER.syncs - before[3]),
        copies_out=LEDGER.copies_out - before[4],
        wanted=counted.wanted,
        blocks_copied=counted.copies,
        tokens_equal=got == tokens,
        furthest=max(abs(a - b) for a, b in zip(numbers, seen, strict=True)),
        strategy=runner._parts.device.info()["strategy"],
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "few" in sys.argv:
        levels.LEVELS = (levels.GREEDY, levels.LEVELS[-1])
    print(json.dumps(asdict(run(Path(sys.argv[1])))))
