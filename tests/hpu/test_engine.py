"""The engine serves on the stand-in what it serves on the CPU, in both strategies, and leaves nothing to chance.

In float64, which no card has: what differs then is a mistake and not rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.families import TRANSFORMERS
from tests.hpu.profiles import COMPILE, LAZY, PROFILES, Profile
from tests.models.test_exactness import EVERY_TIME, SERVED
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

STRATEGIES = {LAZY: "HPU Graphs", COMPILE: "torch.compile"}
OFTEN = {"llama", "mixtral"}


def compiled() -> set[str]:
    """What torch.compile, which traces for long, is tried with: each mechanism; where Gaudis are, each family."""
    if TRANSFORMERS >= 5:  # Intel's stack pins 4.55
        return EVERY_TIME
    first = {tiny.VARIANTS[name][0]: name for name in reversed(SERVED)}
    return EVERY_TIME | {*first.values()}


def cases() -> list[Any]:
    """Every variant with HPU Graphs, fewer with torch.compile; every time two of those, and one of these in short."""
    often = [pytest.param("llama", COMPILE, "few", id="llama-compile-few")]
    return often + [
        pytest.param(
            name,
            profile,
            "",
            marks=() if profile.lazy and name in OFTEN else pytest.mark.full,
            id=f"{name}-{profile}",
        )
        for profile in PROFILES
        for name in SERVED
        if profile.lazy or name in OFTEN | compiled()
    ]


@pytest.mark.parametrize(("variant", "profile", "levels"), cases())
def test_the_card_serves_what_the_cpu_serves_and_is_never_surprised(
    variant: str, profile: Profile, levels: str, model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(model_of(variant))
    ran = profile.run(
        "-W",
        "ignore",
        "-m",
        "tests.hpu.contracts.engine",
        folder,
        levels,
        HPU_STAND_IN_LOCKS=str(tmp_path),
    )
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
