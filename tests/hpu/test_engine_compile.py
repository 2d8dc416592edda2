"""The engine serves on the stand-in with torch.compile what it serves on the CPU, and leaves nothing to chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.families import TRANSFORMERS
from tests.hpu.profiles import COMPILE
from tests.hpu.serves import OFTEN, as_the_cpu_does, case
from tests.models.test_exactness import EVERY_TIME, SERVED
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


def traced() -> list[str]:
    """What Dynamo, which takes long, is tried with: each mechanism; where Gaudis are, each family."""
    one_of_each = OFTEN | EVERY_TIME
    if TRANSFORMERS < 5:  # Intel's stack pins 4.55
        one_of_each |= {*{tiny.VARIANTS[name][0]: name for name in reversed(SERVED)}.values()}
    return [name for name in SERVED if name in one_of_each]


def test_llama_is_served_as_on_the_cpu_with_two_levels_of_the_sampler(
    model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    as_the_cpu_does(COMPILE, model_of("llama"), tmp_path, "few")


@pytest.mark.parametrize("variant", [case(name, often=False) for name in traced()])
def test_every_family_is_served_as_on_the_cpu(
    variant: str, model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    as_the_cpu_does(COMPILE, model_of(variant), tmp_path)
