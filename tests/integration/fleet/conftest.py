"""One fleet for all tests here that do not harm it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.fleet.phases import SETTINGS, Hall
from tests.support.fleet import Fleet
from tests.support.servers import serving


@pytest.fixture(scope="package")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """Over a Redis of its own: other tests empty theirs."""
    folder = tmp_path_factory.mktemp("hall")
    (folder / "logs").mkdir()
    with (
        serving(folder / "redis") as server,
        Fleet(server.url, folder / "logs", model=f"scripted?control={folder}", env=SETTINGS) as fleet,
    ):
        made = Hall(fleet, folder)
        made.pace(0)
        fleet.ready()
        yield made


@pytest.fixture
def fleet(hall: Hall) -> Fleet:
    """The same, at the pace of a quick model."""
    hall.pace(0.002)
    return hall.fleet
