"""One start of an engine on the stand-in, to a warm plan or a refusal, and what it took.

`python -m tests.hpu.contracts.start SPEC` (a LoadSpec as JSON) on a machine of tests/hpu/profiles.py prints it as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from unittest import mock

from habana_frameworks.stand_in import LEDGER

from models.devices import device_of
from models.errors import ModelRefused
from models.load import load
from models.room import Need
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
    """Recipes that the trial compiled or found; 0: there was none."""
    recipes: int
    """In all."""
    compiled: int
    """As the device counts them."""
    from_disk: int
    peak: int
    """Most bytes of the card in use at once."""


def start(spec: LoadSpec) -> Started:
    """Load and warm up."""
    blocks, plan, refusal, trial = 0, "", "", 0
    measure = PagedRunner.trial

    def measured(runner: PagedRunner) -> Need:
        nonlocal trial
        need = measure(runner)
        trial = LEDGER.recipes + LEDGER.from_disk
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
    device = device_of("hpu")
    recipes = LEDGER.recipes + LEDGER.from_disk
    return Started(
        blocks, plan, refusal, trial, recipes, device.compilations(), LEDGER.from_disk, device.memory().peak
    )


if __name__ == "__main__":
    print(json.dumps(asdict(start(LoadSpec(**json.loads(sys.argv[1]))))))
