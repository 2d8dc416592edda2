"""What one engine on the stand-in has to show: `contracts/engine.py` in a process of its own, and what it saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hpu.profiles import COMPILE, LAZY, Profile

STRATEGIES = {LAZY: "HPU Graphs", COMPILE: "torch.compile"}
OFTEN = {"llama", "mixtral"}


def case(variant: str, often: bool) -> Any:
    """That variant: in `make test` too, or only in the full matrix."""
    return pytest.param(variant, marks=() if often else pytest.mark.full)


def as_the_cpu_does(profile: Profile, model: Path, locks: Path, levels: str = "") -> None:
    """AssertionError unless it serves what the CPU serves, and nothing is compiled, read or left to the host.

    In float64, which no card has: what differs then is a mistake and not rounding. With `levels` "few" the sampler
    has two of them.
    """
    command = ("-W", "ignore", "-m", "tests.hpu.contracts.engine", str(model), levels)
    ran = profile.run(*command, HPU_STAND_IN_LOCKS=str(locks))
    assert ran.returncode == 0, ran.stderr[-4000:]
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen.pop("furthest") < 1e-5  # what a fused kernel computes in float32 it may round otherwise
    assert seen.pop("copies_out") == seen.pop("wanted") > 0
    assert seen.pop("blocks_copied") == 2
    assert seen == {
        "compilations": 0,
        "new_recipes": 0,
        "first_launches": 0,
        "fallbacks": {},
        "syncs": {},
        "tokens_equal": True,
        "strategy": STRATEGIES[profile],
    }
