"""The engine serves on the stand-in with HPU Graphs what it serves on the CPU, and leaves nothing to chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hpu.profiles import LAZY
from tests.hpu.serves import OFTEN, as_the_cpu_does, case
from tests.models.test_exactness import SERVED

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


@pytest.mark.parametrize("variant", [case(name, name in OFTEN) for name in SERVED])
def test_every_family_is_served_as_on_the_cpu(
    variant: str, model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    as_the_cpu_does(LAZY, model_of(variant), tmp_path)
