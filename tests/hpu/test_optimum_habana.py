"""What we call of Habana's kernels is what optimum-habana 1.21.2 calls, in the environment that has it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.hpu.inner import check, files
from tests.hpu.profiles import PROFILES, Profile

pytestmark = pytest.mark.full


def test_it_is_the_release_that_was_read() -> None:
    assert version("optimum-habana") == "1.21.2"


@pytest.mark.parametrize("path", files("oracle"), ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_the_contract_holds(profile: Profile, path: Path) -> None:
    check(profile, path, *files("oracle"))
