"""The contracts of the stand-in, each file of them under each profile that it is for, one process per profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hpu.inner import check, files
from tests.hpu.profiles import PROFILES, Profile

OF_PROFILE = {profile: (*files("both"), *files(profile.name)) for profile in PROFILES}
CASES = [
    pytest.param(profile, path, id=f"{profile}-{path.stem}")
    for profile, paths in OF_PROFILE.items()
    for path in paths
]


@pytest.mark.parametrize(("profile", "path"), CASES)
def test_the_contract_holds(profile: Profile, path: Path) -> None:
    check(profile, path, *OF_PROFILE[profile])
