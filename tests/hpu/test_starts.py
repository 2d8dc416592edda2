"""An engine's next start on the stand-in finds what the last one compiled; what would not fit is refused in time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from models import environment
from models.step import LoadSpec
from tests.hpu.contracts.start import Started
from tests.hpu.profiles import COMPILE, LAZY, Profile

MEMORY = {LAZY: 10_930_000, COMPILE: 1_920_000}
"""Bytes of a card with room for more than one sequence and fewer than all slots could fill."""
BLOCK = 8192
"""Bytes of a KV block: layers, K and V, heads, their size, tokens, float32."""
EVERY_SLOT = 129
"""Blocks that all slots could fill."""

BOTH = pytest.mark.parametrize("profile", [LAZY, COMPILE], ids=lambda profile: profile.name)
CHEAPER_EVERY_TIME = pytest.mark.parametrize(
    "profile", [LAZY, pytest.param(COMPILE, marks=pytest.mark.full)], ids=lambda profile: profile.name
)


class Machine:
    """One card of a profile's, with a folder for recipes, on which a model is started again and again."""

    def __init__(self, profile: Profile, model: Path, folder: Path) -> None:
        self._profile, self._model, self._folder = profile, model, folder

    def run(self, memory: int, *more: str, **limits: Any) -> subprocess.CompletedProcess[str]:
        """As a worker starts an engine: what its spec and this software decide, decides the folder."""
        small = {"slots": 4, "graphs": 4, "block_size": 16, "max_total_tokens": 512, "prefill_chunk": 32}
        spec = LoadSpec(
            **{"model_id": str(self._model), "device": "hpu", "dtype": "float32", **small, **limits}
        )
        recipes = environment.recipes_folder(self._folder / "recipes", spec, self._profile.release)
        spec = replace(spec, recipes=str(recipes))
        return self._profile.run(
            "-W", "ignore", "-m", "tests.hpu.contracts.start", json.dumps(asdict(spec)), *more,
            HPU_STAND_IN_LOCKS=str(self._folder), HPU_STAND_IN_MEMORY=str(memory),
            **environment.hpu(spec, self._profile.torch, {}),
        )  # fmt: skip

    def start(self, memory: int, **limits: Any) -> Started:
        """What the start came to."""
        ran = self.run(memory, **limits)
        assert ran.returncode == 0, ran.stderr[-4000:]
        return Started(**json.loads(ran.stdout.splitlines()[-1]))

    def forget(self) -> None:
        """Nothing was ever started here."""
        shutil.rmtree(self._folder / "recipes")


@pytest.fixture
def machine(profile: Profile, model_of: Callable[[str], Path], tmp_path: Path) -> Machine:
    return Machine(profile, model_of("llama"), tmp_path)


@CHEAPER_EVERY_TIME
def test_the_next_start_compiles_nothing_though_other_memory_is_free(
    profile: Profile, machine: Machine
) -> None:
    first = machine.start(MEMORY[profile])
    assert first.compiled > 0 and first.trial > 0 and first.from_disk == 0
    again = machine.start(MEMORY[profile] + 3 * BLOCK)
    assert again.compiled == again.trial == 0 and again.from_disk > 0
    assert not profile.lazy or again.recipes == 0
    assert (again.blocks, again.plan) == (first.blocks, first.plan)
    assert 33 <= first.blocks < EVERY_SLOT - 3  # so that memory decides


@pytest.mark.full
@BOTH
def test_what_decides_the_shapes_compiles_anew_and_takes_nothing_from_the_others(
    profile: Profile, machine: Machine
) -> None:
    memory = MEMORY[profile] + 3 * BLOCK
    first = machine.start(MEMORY[profile])
    others = [machine.start(memory, **other) for other in ({"slots": 3}, {"dtype": "bfloat16"})]
    for other in others:
        assert other.compiled > 0 and other.from_disk == 0 and other.plan != first.plan
    assert machine.start(memory).compiled == 0
    machine.forget()
    fresh = machine.start(memory)
    assert fresh.compiled == first.compiled and first.blocks < fresh.blocks <= first.blocks + 3


REFUSED = re.compile(
    r"the warm-up would not fit: a step takes [\d.]+ MiB, 4 buckets ([\d.]+) MiB and 600 KV blocks 4.69 MiB, "
    r"where ([\d.]+) MiB are free: set KV_BLOCKS to at most (\d+)"
)


@pytest.mark.full
@BOTH
def test_a_warm_up_that_would_not_fit_is_refused_before_more_than_the_trial_is_compiled(
    profile: Profile, machine: Machine
) -> None:
    start = machine.start(MEMORY[profile], kv_blocks=600)
    seen = REFUSED.match(start.refusal)
    assert seen, start.refusal
    assert start.recipes == start.trial > 0
    buckets, free, _ = map(float, seen.groups())
    assert 0 < buckets < free < MEMORY[profile] / 2**20


@pytest.mark.full
@BOTH
def test_what_is_refused_runs_out_of_memory_and_what_is_advised_does_not(
    profile: Profile, machine: Machine
) -> None:
    forced = machine.run(MEMORY[profile], "unchecked", kv_blocks=600)
    assert "Out of memory" in forced.stdout + forced.stderr
    machine.forget()
    seen = REFUSED.match(machine.start(MEMORY[profile], kv_blocks=600).refusal)
    assert seen
    advised = machine.start(MEMORY[profile], kv_blocks=int(seen[3]))
    assert (advised.refusal, advised.blocks) == ("", int(seen[3]))


@pytest.mark.full
@BOTH
def test_a_trial_that_does_not_fit_is_a_sentence_too(profile: Profile, machine: Machine) -> None:
    start = machine.start(1_200_000, prefill_chunk=512)
    assert start.refusal.startswith("no memory for the largest steps") and "Out of memory" in start.refusal
