"""Random interleavings of owners, readers and accidents: never a gap, a duplicate, a lost or a resurrected job."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.integration.ledger.actors import Violation
from tests.integration.ledger.world import World

WALKS = 10
MOVES = 60


def play(url: str, seed: int, mutant: str = "") -> None:
    world = World(url, seed, mutant=mutant)
    try:
        world.play(MOVES)
    except Violation as violation:
        raise Violation(f"seed {seed}, after {' > '.join(world.trace[-12:])}: {violation}") from violation
    finally:
        world.close()


def play_many(url: str, seeds: Iterable[int], mutant: str = "") -> None:
    for seed in seeds:
        play(url, seed, mutant)


@pytest.mark.parametrize("block", range(6))
def test_nothing_is_lost_doubled_or_resurrected(redis_url: str, block: int) -> None:
    play_many(redis_url, range(block * WALKS, (block + 1) * WALKS))


@pytest.mark.full
@pytest.mark.parametrize("block", range(20))
def test_nor_in_a_long_run(redis_url: str, block: int) -> None:
    play_many(redis_url, range(10_000 + block * 100, 10_000 + (block + 1) * 100))


@pytest.mark.parametrize("mutant", ["publish what was refused", "no reappend", "deliver over a gap"])
def test_the_walk_notices_a_broken_worker_or_reader(redis_url: str, mutant: str) -> None:
    """The negative control: with one rule left out, the same walks fail."""
    with pytest.raises(Violation):
        play_many(redis_url, range(400), mutant)
