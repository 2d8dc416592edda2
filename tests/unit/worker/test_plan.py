from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from models.plan import Bucket, Limits, OutsidePlan, plan_buckets
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
    )


@given(held=any_limits(), most=st.integers(2, 80), data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_every_feasible_step_has_a_bucket(held: Limits, most: int, data: st.DataObject) -> None:
    plan = plan_buckets(held, most)
    assert len(plan) <= most
    blocks = data.draw(st.integers(1, held.max_blocks))
    batch = data.draw(st.integers(1, held.slots))
    assume(held.feasible(batch, 1, blocks))
    assert plan.decode(batch, blocks).covers(batch, 1, blocks)
    rows = min(batch, held.prefill_batch)
    query = data.draw(
        st.integers(1, min(held.prefill_chunk, blocks * held.block_size, held.max_total_tokens))
    )
    assert plan.prefill(rows, query, blocks).covers(rows, query, blocks)


def test_every_feasible_step_has_a_bucket_exhaustively() -> None:
    held = limits(num_blocks=17)
    plan = plan_buckets(held)
    for blocks in range(1, held.max_blocks + 1):
        for batch in range(1, held.slots + 1):
            if held.feasible(batch, 1, blocks):
                assert plan.decode(batch, blocks).phase == "decode"
        for batch in range(1, held.prefill_batch + 1):
            for query in range(1, held.prefill_chunk + 1):
                if held.feasible(batch, query, blocks):
                    assert plan.prefill(batch, query, blocks).phase == "prefill"


def test_a_step_gets_the_cheapest_bucket_that_covers_it() -> None:
    plan = plan_buckets(limits())
    covering = [b for b in plan.buckets if b.phase == "decode" and b.covers(3, 1, 2)]
    assert plan.decode(3, 2) == min(covering, key=plan.cost)


def test_beyond_the_limits_there_is_no_bucket() -> None:
    held = limits()
    plan = plan_buckets(held)
    with pytest.raises(OutsidePlan, match="no decode bucket covers 5 rows of 1 tokens over 1 blocks"):
        plan.decode(held.slots + 1, 1)
    with pytest.raises(KeyError):
        plan.prefill(1, held.prefill_chunk + 1, 15)


def test_the_digest_tells_plans_apart() -> None:
    assert plan_buckets(limits()).digest == plan_buckets(limits()).digest
    assert plan_buckets(limits()).digest != plan_buckets(limits(num_blocks=21)).digest
    assert plan_buckets(limits()).digest != plan_buckets(limits(), most=4).digest


def test_a_usual_server_needs_few_buckets() -> None:
    usual = Limits(
        slots=32,
        block_size=16,
        num_blocks=2049,
        max_input_tokens=2047,
        max_total_tokens=2048,
        prefill_chunk=256,
        prefill_batch=4,
    )
    plan = plan_buckets(usual)
    assert len(plan) <= 64
    assert Bucket("decode", 32, 1, 128) in plan.buckets
    assert Bucket("prefill", 4, 256, 128) in plan.buckets


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"slots": 0}, "slots is 0: give at least 1"),
        ({"max_input_tokens": 60}, "room for at least one new token"),
        ({"num_blocks": 15}, "give at least 16 blocks"),
    ],
)
def test_limits_that_cannot_work_are_refused_with_a_sentence(changes: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        limits(**changes)
