from __future__ import annotations

import pytest

from bench import padding, peers
from bench.traffic import TRAFFIC, launches, trace
from models.planner import plan_buckets


@pytest.fixture(scope="module")
def case() -> padding.Case:
    return padding.case_of("gaudi2", 8192, 40)


@pytest.mark.parametrize("name", TRAFFIC)
def test_the_server_prefills_and_decodes_every_token_once(case: padding.Case, name: str) -> None:
    requests = trace(name, 7, 40, 0.7, case.limits, case.costs)
    made = launches(requests, case.limits, case.costs)
    prefilled = sum(tokens * n for (tokens, _), n in made.prefill.items())
    decoded = sum(rows * n for (rows, _), n in made.decode.items())
    assert prefilled == sum(each.prompt - each.cached for each in requests)
    assert decoded == sum(each.output - 1 for each in requests), "the first comes with the prompt"


def test_what_is_launched_is_feasible_and_has_a_bucket(case: padding.Case) -> None:
    plan = plan_buckets(case.limits, 16, case.costs)
    for scene in padding.SCENES:
        for shape in padding.shapes(case, case.scored[scene]):
            assert case.limits.feasible(*shape)
            assert plan.fits(*shape)


def test_the_same_seed_makes_the_same_traffic_and_another_another(case: padding.Case) -> None:
    made = [trace("chat", seed, 20, 0.7, case.limits, case.costs) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_no_bucket_is_smaller_than_its_launch(case: padding.Case) -> None:
    made = (peers.exponential(case.server), peers.linear(case.server), peers.padding_aware(case.server))
    scene = ("rag", 1.0)
    assert all(padding.score_vllm(peer, case, scene).padding > 0 for peer in made)
    tgi = peers.tgi(case.server, case.server.length - 1, case.server.length)
    assert padding.score_tgi(tgi, case, scene).padding > 0


def test_our_plan_pads_less_than_vllms_at_an_equal_count(case: padding.Case) -> None:
    peer = peers.exponential(case.server)
    plan = padding.planned(case, len(peer), padding.SCENES)
    for scene in padding.SCENES:
        ours, theirs = padding.score_plan(plan, case, scene), padding.score_vllm(peer, case, scene)
        assert ours.work == pytest.approx(theirs.work), "the same launches"
        assert ours.less_than(theirs) > 20
