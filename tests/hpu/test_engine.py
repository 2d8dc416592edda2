"""The engine serves on the stand-in what it serves on the CPU, in both strategies, and leaves nothing to chance.

In float64, which no card has: what differs then is a mistake and not rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hpu.profiles import COMPILE, LAZY, PROFILES, Profile
from tests.models.test_exactness import EVERY_TIME, SERVED
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

STRATEGIES = {LAZY: "HPU Graphs", COMPILE: "torch.compile"}
OFTEN = {"llama", "mixtral"}
FIRSTS = {
    next(name for name in SERVED if tiny.VARIANTS[name][0] == kind)
    for kind, _ in tiny.VARIANTS.values()
    if any(tiny.VARIANTS[name][0] == kind for name in SERVED)
}
"""One of each family."""


def cases() -> list[Any]:
    """Every variant with HPU Graphs; with torch.compile, which traces for long, each family and each mechanism."""
    return [
        pytest.param(
            variant, profile, marks=() if variant in OFTEN else pytest.mark.full, id=f"{variant}-{profile}"
        )
        for profile in PROFILES
        for variant in SERVED
        if profile.lazy or variant in OFTEN | FIRSTS | EVERY_TIME
    ]


@pytest.mark.parametrize(("variant", "profile"), cases())
def test_the_card_serves_what_the_cpu_serves_and_is_never_surprised(
    variant: str, profile: Profile, model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(model_of(variant))
    ran = profile.run(
        "-W",
        "ignore",
        "-m",
        "tests.hpu.contracts.engine",
        folder,
        HPU_STAND_IN_LOCKS=str(tmp_path),
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen.pop("furthest") < 1e-5  # what a fused kernel computes in float32 it may round otherwise
    assert seen.pop("copies_out") == seen.pop("wanted") > 0
    assert seen == {
        "compilations": 0,
        "new_recipes": 0,
        "first_launches": 0,
        "fallbacks": {},
        "syncs": {},
        "tokens_equal": True,
        "strategy": STRATEGIES[profile],
    }
