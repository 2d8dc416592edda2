"""Choices of one job: one prefill, shared blocks, a copy for who writes; the strict runner checks what blocks hold."""

from __future__ import annotations

import pytest

from models.step import Sampling
from tests.support.scheduling import Lab, expected, sequence
from tests.unit.worker.test_scheduler import prompt
from worker.sequence import Sequence


def group(number: int, length: int, new: int, size: int = 4, **changes: object) -> list[Sequence]:
    """Choices of one job, each with tokens of its own."""
    return [
        sequence(
            10 * number + choice,
            prompt(length, number),
            new,
            sampling=Sampling(seed=10 * number + choice, do_sample=True),
            group=number,
            **changes,
        )
        for choice in range(size)
    ]


def prefilled(lab: Lab) -> int:
    """Tokens that prefill steps have run."""
    return sum(row.count for batch in lab.batches for row in batch.step.rows if row.ids)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 30])
def test_four_choices_prefill_as_one(length: int, prefix_cache: bool, depth: int) -> None:
    lab = Lab(depth, prefix_cache, num_blocks=100)
    crowd = group(1, length, 20)
    lab.admit(*crowd)
    lab.drain()
    assert prefilled(lab) == length
    assert sum(len(batch.opened) for batch in lab.batches) == 4
    copies = sum(len(batch.step.copies) for batch in lab.batches)
    assert copies == (3 if length % 4 else 0), "the last holder of a block writes into it as it is"
    texts = [lab.given[each.seq] for each in crowd]
    assert texts == [expected(each, 20) for each in crowd] and len({*map(tuple, texts)}) == 4


def test_their_prompts_full_blocks_are_held_once() -> None:
    lab = Lab(num_blocks=100)
    lab.admit(*group(1, 30, 20))
    for _ in range(6):
        lab.step()
    running = lab.scheduler._running
    assert len(running) == 4 and len({block for each in running for block in each.blocks[:7]}) == 7
    lab.drain()


def test_those_for_whom_there_is_no_slot_follow_later() -> None:
    lab = Lab(num_blocks=100)
    crowd = group(1, 9, 12, size=7)
    lab.admit(*crowd)
    lab.drain()
    assert [lab.given[each.seq] for each in crowd] == [expected(each, 12) for each in crowd]
    assert prefilled(lab) < 7 * 9


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("blocks", range(16, 34, 3))
def test_those_that_are_preempted_lose_nothing(blocks: int, depth: int) -> None:
    lab = Lab(depth, num_blocks=blocks)
    crowd = [*group(1, 9, 40), *group(2, 10, 30, size=3), sequence(5, prompt(12, 5), 30)]
    lab.admit(*crowd)
    lab.drain()
    for each in crowd:
        assert lab.given[each.seq] == expected(each, each.max_new_tokens)


def test_a_leader_that_leaves_during_its_prefill_leaves_the_others_to_themselves() -> None:
    lab = Lab(num_blocks=100)
    crowd = group(1, 30, 8)
    lab.admit(*crowd)
    lab.step()
    lab.scheduler.abort(crowd[0])
    lab.drain()
    assert lab.given[crowd[0].seq] == []
    assert [lab.given[each.seq] for each in crowd[1:]] == [expected(each, 8) for each in crowd[1:]]


def test_one_that_leaves_before_it_is_forked_is_not_waited_for() -> None:
    lab = Lab(num_blocks=100)
    crowd = group(1, 30, 8)
    lab.admit(*crowd)
    lab.step()
    lab.scheduler.abort(crowd[2])
    lab.drain()
    assert prefilled(lab) == 30 and lab.given[crowd[2].seq] == []


def test_one_that_was_begun_before_goes_on_by_itself() -> None:
    lab = Lab(num_blocks=100)
    crowd = group(1, 9, 12)
    crowd[1].output.extend(expected(crowd[1], 5))
    lab.admit(*crowd)
    lab.drain()
    assert [lab.given[each.seq] for each in crowd] == [expected(each, 12) for each in crowd]


def test_a_group_waits_for_its_slots_and_is_not_passed_for_ever() -> None:
    lab = Lab(num_blocks=200)
    lab.admit(*(sequence(i, prompt(3, i), 10 + i) for i in range(2)))
    for _ in range(3):
        lab.step()
    crowd = group(1, 20, 5)
    lab.admit(*crowd, *(sequence(200 + i, prompt(3, i), 10) for i in range(60)))
    lab.drain()
    assert lab.left.index(crowd[0].seq) < 40
    assert prefilled(lab) == 2 * 3 + 20 + 60 * 3


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("position", range(4))
def test_a_step_that_raises_costs_one_of_them(position: int, depth: int) -> None:
    poison = [*b"a!raise@%d" % position, *prompt(7)]
    lab = Lab(depth, num_blocks=100)
    crowd = [
        sequence(
            choice,
            poison if choice < 3 else prompt(9),
            6,
            sampling=Sampling(seed=choice, do_sample=True),
            group=1 if choice < 3 else 0,
        )
        for choice in range(4)
    ]
    lab.admit(*crowd)
    lab.drain()
    assert lab.given[3] == expected(crowd[3], 6)
    for each in crowd[:3]:
        assert lab.given[each.seq] == expected(each, position), "all of them meet the same fate, one by one"
