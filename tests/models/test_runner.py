"""The plan is sealed: every step runs a program that warm-up built, and no step brings a new shape."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.captured import Eager, Programs
from models.load import load
from models.plan import PHASES, Bucket
from models.runner import PagedRunner
from models.step import LoadSpec, Outcome, Row, Step
from tests.models.drive import Driver, Reference, drive, quiet, runner_of, sequence
from tests.support import tiny

Maker = Callable[[str], Path]


@pytest.fixture(scope="module")
def runner(model_of: Maker) -> PagedRunner:
    return runner_of(model_of("llama"), dtype="float32")


def row(ids: list[int], blocks: list[int], **fields: Any) -> Row:
    first: dict[str, Any] = {"slot": 0, "start": 0, "sample": True, "position": 0}
    return Row(ids=ids, blocks=blocks, **(first | fields))


class TestSealed:
    def test_warm_up_executes_every_bucket_largest_first_and_tells(self, model_of: Maker) -> None:
        runner = load(LoadSpec(model_id=str(model_of("llama")), slots=2, max_total_tokens=64), quiet)
        seen: list[tuple[str, int, int]] = []
        runner.warm_up(lambda *progress: seen.append(progress))
        total = len(runner.plan)
        assert seen == [("warm-up", done, total) for done in range(total + 1)]
        assert all(runner.seconds(bucket) > 0 for bucket in runner.plan.buckets)
        assert runner.compilations == 0

    def test_a_bucket_outside_the_plan_is_refused(self, runner: PagedRunner) -> None:
        bucket = Bucket("decode", 3, 1, 77)
        with pytest.raises(KeyError, match="not in the plan"):
            runner.launch(Step(bucket, (row([], [1]),)))
        with pytest.raises(KeyError):
            runner.seconds(bucket)
        assert runner.compilations == 0

    def test_rows_that_do_not_fit_their_bucket_are_refused(self, runner: PagedRunner) -> None:
        bucket = runner.plan.decode(1, 1)
        for rows in ([row([], [1, 2])], [row([], [1])] * (bucket.batch + 1)):
            with pytest.raises(ValueError, match="do not fit"):
                runner.launch(Step(bucket, tuple(rows)))
        with pytest.raises(ValueError, match="it has no ids"):
            runner.launch(Step(bucket, (row([5], [1]),)))
        bucket = runner.plan.prefill(2, 1)
        for rows in ([row([5] * (bucket.query + 1), [1])], [row([5], [1])] * (bucket.batch + 1)):
            with pytest.raises(ValueError, match="do not fit"):
                runner.launch(Step(bucket, tuple(rows)))

    def test_a_chunk_that_wants_no_token_gives_none(self, runner: PagedRunner) -> None:
        step = Step(runner.plan.prefill(3, 1), (row([5, 6, 7], [1], sample=False),))
        assert runner.launch(step).read() == Outcome([])

    def test_a_program_built_after_the_seal_is_counted(self) -> None:
        programs: Programs[str] = Programs(Eager())
        programs.build("planned", lambda x: (x,), {"x": torch.zeros(1)})
        programs.seal()
        assert programs.since_seal == 0
        programs.build("unplanned", lambda x: (x,), {"x": torch.zeros(1)})
        assert programs.since_seal == 1

    def test_a_program_takes_its_planned_inputs_and_no_others(self) -> None:
        programs: Programs[str] = Programs(Eager())
        programs.build("double", lambda x: (2 * x,), {"x": torch.zeros(2)})
        assert programs["double"].run(x=torch.ones(2))[0].tolist() == [2, 2]
        for wrong in ({"x": torch.ones(3)}, {"x": torch.ones(2).int()}, {"y": torch.ones(2)}):
            with pytest.raises(ValueError, match="double"):
                programs["double"].run(**wrong)


def test_a_prompt_is_scored_by_steps_of_its_own(model_of: Maker) -> None:
    folder = model_of("llama")
    runner, reference = runner_of(folder), Reference(folder)
    chance = random.Random(5)
    crowd = [
        sequence([chance.randrange(3, tiny.VOCAB) for _ in range(length)], 4, prompt_logprobs=True)
        for length in (1, 2, 31, 32, 33, 70)
    ]
    drive(runner, crowd, joins=lambda index: index)
    for each in crowd:
        assert each.output == reference.greedy(each.prompt, 4)
        expected = reference.logprobs(each.prompt[:1], each.prompt[1:])
        assert each.scores == pytest.approx(expected, abs=1e-4)
    assert runner.compilations == 0


def test_nan_is_an_error_and_no_token(model_of: Maker) -> None:
    runner = runner_of(model_of("llama"), dtype="float32", slots=1)
    broken = runner._parts.forward.model.model.norm.weight
    with torch.inference_mode():
        broken.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        drive(runner, [sequence([5, 6], 2)])


def test_close_frees_the_pools(model_of: Maker) -> None:
    runner = runner_of(model_of("llama"), dtype="float32", slots=1)
    runner.close()
    with pytest.raises(KeyError):
        runner.launch(Step(runner.plan.decode(1, 1), (row([], [1]),)))
    assert not [name for name, _ in runner._parts.forward.model.named_buffers() if name.endswith("_cache")]


class TestGrowth:
    @pytest.fixture
    def growing(self, model_of: Maker) -> PagedRunner:
        limits = {"slots": 4, "max_total_tokens": 128, "prefill_chunk": 32, "graphs": 10, "dtype": "float64"}
        runner = load(LoadSpec(model_id=str(model_of("llama")), ready_buckets=3, **limits), quiet)  # type: ignore[arg-type]
        runner.warm_up(quiet)
        return runner

    def test_the_first_buckets_cover_every_step(self, growing: PagedRunner) -> None:
        assert len(growing.plan) == 3 and len(growing.whole) == 10
        for phase in PHASES:
            assert growing.plan.fits(phase, *growing.plan.limits.most(phase))

    def test_it_serves_while_it_grows_and_writes_the_same(self, growing: PagedRunner) -> None:
        driver = Driver(growing)
        seen, texts = [], []
        for _ in range(9):
            text = sequence(range(5, 25), 8)
            driver.run([text])
            texts.append(text.output)
            growing.grow(lambda stage, done, total: seen.append((stage, done, total)))
            driver.scheduler.plan = growing.plan
            assert growing.compilations == 0
        assert texts == texts[:1] * 9
        assert seen == [("warm-up", done, 10) for done in range(4, 11)]
        assert growing.plan.digest == growing.whole.digest
