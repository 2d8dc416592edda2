from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.histogram import Shape
from models.plan import LAYOUTS, PHASES, Limits, OutsidePlan
from models.planner import plan_buckets
from tests.support.scheduling import limits


@st.composite
def any_limits(draw: st.DrawFn) -> Limits:
    total = draw(st.integers(2, 300))
    size = draw(st.sampled_from([1, 2, 4, 16, 128]))
    longest = -(-total // size)
    return Limits(
        slots=draw(st.integers(1, 70)),
        block_size=size,
        num_blocks=draw(st.integers(longest + 1, longest + 200)),
        max_input_tokens=draw(st.integers(1, total - 1)),
        max_total_tokens=total,
        prefill_chunk=draw(st.integers(1, 400)),
        prefill_batch=draw(st.integers(1, 8)),
        layout=draw(st.sampled_from(LAYOUTS)),
    )


@st.composite
def any_histogram(draw: st.DrawFn) -> dict[Shape, int]:
    """Also of shapes that the limits exclude."""
    shape = st.tuples(st.sampled_from(PHASES), st.integers(1, 500), st.integers(1, 500))
    return draw(st.dictionaries(shape, st.integers(1, 10_000), max_size=8))


@given(
    held=any_limits(), graphs=st.integers(3, 80), seen=any_histogram(), prior=st.sampled_from([0.0, 0.1, 1.0])
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_feasible_step_has_a_bucket(
    held: Limits, graphs: int, seen: dict[Shape, int], prior: float
) -> None:
    plan = plan_buckets(held, graphs, histogram=seen, prior=prior)
    assert len(plan) <= graphs
    for phase in PHASES:
        most_x, most_y = held.most(phase)
        for x in range(1, most_x + 1):
            least = x if phase == "decode" and held.layout == "flat" else 1
            least = held.blocks_of(x) if phase != "decode" else least
            for y in {least, most_y, min(most_y, x * held.max_blocks), held.usable_blocks + 1 - x}:
                assert plan.fits(phase, x, y) or not held.feasible(phase, x, y)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_feasible_step_gets_the_cheapest_bucket_that_covers_it(layout: str) -> None:
    held = limits(num_blocks=17, layout=layout)
    plan = plan_buckets(held)
    for phase in PHASES:
        most_x, most_y = held.most(phase)
        for x in range(1, most_x + 1):
            for y in range(1, most_y + 1):
                if held.feasible(phase, x, y):
                    covering = [b for b in plan.buckets if b.phase == phase and b.covers(x, y)]
                    assert plan.cost(plan.cheapest(phase, x, y)) == min(map(plan.cost, covering))


def test_beyond_the_limits_there_is_no_bucket() -> None:
    held = limits()
    plan = plan_buckets(held)
    assert not plan.fits("decode", held.slots + 1, 1)
    with pytest.raises(OutsidePlan, match="no decode bucket covers 5 rows over 1 blocks"):
        plan.decode(held.slots + 1, 1)
    with pytest.raises(KeyError, match="no prefill bucket covers 9 tokens over 15 blocks"):
        plan.prefill(held.prefill_chunk + 1, 15)


def test_the_digest_tells_plans_apart() -> None:
    assert plan_buckets(limits()).digest == plan_buckets(limits()).digest
    assert plan_buckets(limits()).digest != plan_buckets(limits(num_blocks=21)).digest
    assert plan_buckets(limits()).digest != plan_buckets(limits(), graphs=4).digest


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"slots": 0}, "slots is 0: give at least 1"),
        ({"max_input_tokens": 60}, "room for at least one new token"),
        ({"num_blocks": 15}, "give at least 16 blocks"),
        ({"layout": "round"}, "layout is 'round': give one of gather, flat"),
    ],
)
def test_limits_that_cannot_work_are_refused_with_a_sentence(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        limits(**changes)
