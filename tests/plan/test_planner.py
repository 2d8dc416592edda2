from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cost import EIGHT_BILLION, MACHINES, CostModel
from models.histogram import Shape
from models.plan import LAYOUTS, PHASES, REFERENCE, Bucket, Layout, Limits, seconds
from models.planner import affordable_graphs, choose, outlook, padding, plan_buckets
from tests.plan.test_plan import any_limits
from tests.support.scheduling import limits

LARGE = Limits(
    slots=64,
    block_size=128,
    num_blocks=3776,
    max_input_tokens=32_767,
    max_total_tokens=32_768,
    prefill_chunk=2048,
    prefill_batch=4,
    layout="flat",
)


def traffic(held: Limits, seed: int, count: int = 200) -> dict[Shape, int]:
    """Feasible shapes around a few favourites."""
    rng, found = np.random.default_rng(seed), dict[Shape, int]()
    while len(found) < count:
        phase = PHASES[int(rng.integers(2))]
        x, y = (1 + int(rng.beta(2, 8) * (most - 1)) for most in held.most(phase))
        if held.feasible(phase, x, y):
            found[phase, x, y] = int(rng.integers(1, 50))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_server_is_covered_within_the_budget(layout: Layout) -> None:
    held = replace(LARGE, layout=layout)
    plan = plan_buckets(held, histogram=traffic(held, 1))
    assert len(plan) == 64
    for phase in PHASES:
        most_x, most_y = held.most(phase)
        assert plan.cheapest(phase, most_x, most_y).covers(most_x, most_y)
        assert all(bucket.covers(bucket.x, bucket.blocks) for bucket in plan.buckets)


@given(held=any_limits(), seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_more_buckets_never_cost_more(held: Limits, seed: int) -> None:
    view = outlook(held, REFERENCE, {("decode", 1, 1): seed, ("prefill", 1, 1): 1})
    costs = [padding(choose(view, graphs).plan, view.traffic) for graphs in (3, 4, 9, 10, 20)]
    assert all(more <= fewer + 1e-9 for fewer, more in pairwise(costs))


def test_the_curve_is_the_padding_of_the_plans_along_the_way() -> None:
    view = outlook(LARGE, REFERENCE, traffic(LARGE, 2))
    choice = choose(view, 40)
    assert choice.curve[-1][0] == len(choice.plan) == 40
    assert choice.curve[-1][1] == pytest.approx(padding(choice.plan, view.traffic))
    assert all(more <= fewer for (_, fewer), (_, more) in pairwise(choice.curve))


def test_the_same_input_gives_the_same_plan() -> None:
    seen = traffic(LARGE, 3)
    backwards = dict(reversed(seen.items()))
    assert (
        plan_buckets(LARGE, 32, histogram=seen).buckets
        == plan_buckets(LARGE, 32, histogram=backwards).buckets
    )


def test_what_comes_often_runs_with_hardly_any_padding() -> None:
    often: dict[Shape, int] = {("decode", 17, 333): 10_000, ("prefill", 700, 6): 10_000}
    plan = choose(outlook(LARGE, REFERENCE, often), 16).plan
    for shape in often:
        assert plan.cost(plan.cheapest(*shape)) < 1.1 * seconds(REFERENCE, LARGE, *shape)
    assert plan.prefill(700, 6) == Bucket("prefill", 4, 768, 6), "rounded up to the device's step"


def test_the_histogram_saves_padding_on_its_own_traffic() -> None:
    seen = traffic(LARGE, 4)
    known, unknown = plan_buckets(LARGE, histogram=seen), plan_buckets(LARGE)
    assert padding(known, seen) < 0.7 * padding(unknown, seen)


def test_shapes_outside_the_limits_are_left_out() -> None:
    old: dict[Shape, int] = {("decode", 64, 4000): 5, ("prefill", 4096, 40): 5, ("score", 5, 1): 5}
    assert plan_buckets(LARGE, 16, histogram=old).buckets == plan_buckets(LARGE, 16).buckets


def test_a_plan_hardly_loses_to_the_best_of_all_on_small_limits() -> None:
    """Against every choice of three corners beside the largest, found by trying."""
    held = limits(prefill_chunk=1, prefill_batch=1, max_input_tokens=1, max_total_tokens=4, layout="flat")
    seen: dict[Shape, int] = {
        ("decode", x, y): 1 + x * y for x in range(1, 5) for y in range(1, 5) if held.feasible("decode", x, y)
    }
    view = outlook(held, REFERENCE, seen, prior=0.0)
    largest = held.most("decode")
    corners = [(x, y) for _, x, y in view.traffic if (x, y) != largest]
    best = min(_cost(held, view.traffic, [largest, a, b]) for a in corners for b in corners)
    plan = choose(view, 5).plan
    mine = _cost(held, view.traffic, [(b.x, b.blocks) for b in plan.buckets if b.phase == "decode"])
    assert mine <= best * (1 + 1e-9)


def _cost(held: Limits, traffic: Mapping[Shape, float], corners: list[tuple[int, int]]) -> float:
    priced = [(seconds(REFERENCE, held, "decode", *corner), corner) for corner in corners]
    return sum(
        n * min(cost for cost, (x, y) in priced if x >= shape[1] and y >= shape[2])
        for shape, n in traffic.items()
        if shape[0] == "decode"
    )


def test_the_digest_does_not_depend_on_what_buckets_cost() -> None:
    plan = plan_buckets(limits(), 8)
    dearer = replace(plan, costs=CostModel(MACHINES["cuda"], EIGHT_BILLION))
    assert dearer.digest == plan.digest


def test_a_plan_too_small_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="a plan of 2 buckets is too small: give at least 3"):
        plan_buckets(limits(), 2)


def test_a_warm_up_pays_for_so_many_buckets() -> None:
    assert affordable_graphs(300, 3) == 100
    assert affordable_graphs(1, 3) == 3
