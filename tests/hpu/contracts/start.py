"""One start of an engine on the stand-in, to a warm plan or a refusal, and what it took.

`python -m tests.hpu.contracts.start SPEC [unchecked]` (a LoadSpec as JSON) on a machine of tests/hpu/profiles.py prints
it as JSON. Unchecked: a budget that is too small is not refused.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from unittest import mock

from models.devices import device_of
from models.errors import ModelRefused
from models.load import load
from models.room import Budget, Need
from models.runner import PagedRunner
from models.step import LoadSpec
from tests.models.drive import quiet


@dataclass(frozen=True, slots=True)
class Started:
    """What one start came to."""

    blocks: int
    plan: str
    """The plan's digest."""
    refusal: str
    trial: int
    """Recipes that the trial compiled; 0: there was none."""
    recipes: int
    """Recipes compiled in all, eager operations' included."""
    compiled: int
    """As the device counts them: without those."""
    from_disk: int


def start(spec: LoadSpec) -> Started:
    """Load and warm up. RuntimeError if the card's memory does not suffice for a warm-up that was not refused."""
    from habana_frameworks.stand_in import LEDGER

    blocks, plan, refusal, trial = 0, "", "", 0
    measure = PagedRunner.trial

    def measured(runner: PagedRunner) -> Need:
        nonlocal trial
        need = measure(runner)
        trial = LEDGER.recipes
        return need

    with mock.patch.object(PagedRunner, "trial", measured):
        try:
            runner = load(spec, quiet)
            runner.warm_up(quiet)
            while len(runner.plan) < len(runner.whole):
                runner.grow(quiet)
            blocks, plan = runner.plan.limits.num_blocks, runner.whole.digest
        except ModelRefused as refused:
            refusal = str(refused)
    compiled = device_of("hpu").compilations()
    return Started(blocks, plan, refusal, trial, LEDGER.recipes, compiled, LEDGER.from_disk)


if __name__ == "__main__":
    if sys.argv[2:] == ["unchecked"]:
        mock.patch.object(Budget, "check").start()
    print(json.dumps(asdict(start(LoadSpec(**json.loads(sys.argv[1]))))))
