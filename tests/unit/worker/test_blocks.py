from __future__ import annotations

import pytest

from models.blocks import BlockPool


def test_scratch_is_never_handed_out_and_all_others_are() -> None:
    pool = BlockPool(num_blocks=6, block_size=4)
    assert pool.can_allocate(5)
    assert not pool.can_allocate(6)
    assert sorted(pool.allocate(5)) == [1, 2, 3, 4, 5]
    assert pool.free_blocks == 0


def test_what_is_freed_can_be_had_again() -> None:
    pool = BlockPool(num_blocks=4, block_size=4)
    first = pool.allocate(3)
    pool.free(first[:2])
    assert sorted(pool.allocate(2)) == sorted(first[:2])


def test_more_than_is_free_is_an_error_that_takes_nothing() -> None:
    pool = BlockPool(num_blocks=4, block_size=4)
    pool.allocate(2)
    with pytest.raises(ValueError, match="ask can_allocate first"):
        pool.allocate(2)
    assert pool.free_blocks == 1


def test_a_block_freed_twice_is_an_error() -> None:
    pool = BlockPool(num_blocks=4, block_size=4)
    blocks = pool.allocate(1)
    pool.free(blocks)
    with pytest.raises(ValueError, match="nobody holds it"):
        pool.free(blocks)
    with pytest.raises(ValueError, match="nobody holds it"):
        pool.free([0])
