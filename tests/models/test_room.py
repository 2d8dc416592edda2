"""What there is room for: measured by a trial, refused in numbers, and taken over by the next start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from models import assembly
from models.devices import Cpu, Memory
from models.errors import ModelRefused
from models.histogram import Histogram, Shape
from models.load import load
from models.plan import Limits, bucket_of
from models.room import FILE, GIB, Budget, Need, Start, last_start
from models.runner import PagedRunner
from models.step import LoadSpec
from tests.models.drive import Driver, quiet, sequence

MIB = 2**20
DEVICE = "a card"
Maker = Callable[..., Path]


@dataclass(frozen=True, slots=True)
class Card(Cpu):
    """A host that says of its memory what a card would: so much is free, and so much goes in a trial."""

    measured: bool = True
    kv_share: float = 1.0
    says: Iterator[Memory] = field(default_factory=lambda: iter(()))

    def memory(self) -> Memory:
        """The next of what it is to say."""
        return next(self.says)

    def info(self) -> dict[str, str]:
        """What a start is kept for."""
        return {"card": DEVICE}


def memories(free: int, kept: int, step: int) -> Iterator[Memory]:
    """Before the first plan, before the trial twice, after it, in turn; then it stays."""
    total = 100 * GIB
    yield Memory(free, total, 0, 0)
    yield Memory(free, total, 0, 0)
    yield Memory(free, total, 0, 0)
    while True:
        yield Memory(free - kept, total, kept, kept + step)


def started(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    free: int,
    *,
    kept: int = 3 * MIB,
    step: int = 5 * MIB,
    **spec: Any,
) -> PagedRunner:
    card = Card(says=memories(free, kept, step))
    monkeypatch.setattr("models.load.device_of", lambda name: card)
    limits: dict[str, Any] = {"slots": 4, "graphs": 6, "max_total_tokens": 64, "dtype": "float32"}
    return load(LoadSpec(model_id=str(folder), **(limits | spec)), quiet)


BLOCK = 2 * 2 * 2 * 16 * 16 * 4
"""Bytes of a KV block of the tiny Llama: layers, K and V, heads, their size, tokens, float32."""


class TestTrial:
    def test_pools_get_what_the_trial_leaves(self, monkeypatch: pytest.MonkeyPatch, model_of: Maker) -> None:
        """A step takes 5 MiB; of three buckets 3 MiB are kept, so six keep 6."""
        runner = started(monkeypatch, model_of("llama"), 11 * MIB + 10 * BLOCK + 1)
        assert runner.plan.limits.num_blocks == 10
        layer = next(iter(runner._parts.pools.layers))
        assert layer.k_cache.shape[0] == 10 * 16  # type: ignore[index]

    def test_no_more_than_every_slot_can_fill(self, monkeypatch: pytest.MonkeyPatch, model_of: Maker) -> None:
        runner = started(monkeypatch, model_of("llama"), 10 * GIB)
        assert runner.plan.limits.num_blocks == 4 * 4 + 1

    def test_the_model_still_writes_what_it_did(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker
    ) -> None:
        texts = []
        for free in (10 * GIB, 11 * MIB + 12 * BLOCK):
            runner = started(monkeypatch, model_of("llama"), free, dtype="float64")
            runner.warm_up(quiet)
            text = sequence(range(5, 25), 8)
            Driver(runner).run([text])
            texts.append(text.output)
            runner.close()
        assert texts[0] == texts[1]

    def test_what_would_not_fit_is_refused_with_the_numbers(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker
    ) -> None:
        sizes = {"kept": 3 * GIB, "step": 5 * GIB}
        with pytest.raises(ModelRefused) as caught:
            started(monkeypatch, model_of("llama"), 15 * GIB, kv_blocks=600_000, **sizes)
        assert str(caught.value) == (
            "the warm-up would not fit: a step takes 5.00 GiB, 6 buckets 6.00 GiB and 600000 KV blocks 4.58 GiB, "
            "where 15.00 GiB are free: set KV_BLOCKS to at most 524288 or GRAPHS to at most 5"
        )

    def test_too_little_for_one_sequence_is_refused_with_how_long_one_may_be(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker
    ) -> None:
        with pytest.raises(
            ModelRefused, match="5 KV blocks 0.04 MiB, .* set MAX_TOTAL_TOKENS to at most 32 or GRAPHS"
        ):
            started(monkeypatch, model_of("llama"), 11 * MIB + 3 * BLOCK)
        runner = started(monkeypatch, model_of("llama"), 11 * MIB + 3 * BLOCK, max_total_tokens=32)
        assert runner.plan.limits.num_blocks == 3

    def test_where_nothing_is_left_it_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker
    ) -> None:
        with pytest.raises(ModelRefused, match="PREFILL_CHUNK lower, or use more cards"):
            started(monkeypatch, model_of("llama"), 4 * MIB)

    def test_a_trial_that_does_not_fit_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker
    ) -> None:
        def no_memory(runner: PagedRunner) -> Need:
            raise RuntimeError("Out of memory")

        monkeypatch.setattr(PagedRunner, "trial", no_memory)
        with pytest.raises(ModelRefused, match=r"set PREFILL_CHUNK, SLOTS or .* lower.*\(Out of memory\)"):
            started(monkeypatch, model_of("llama"), 10 * GIB)


def test_a_refusal_says_what_would_fit() -> None:
    budget = Budget(free=10 * GIB, need=Need(step=1 * GIB, bucket=GIB // 8), buckets=64)
    assert budget.left == 1 * GIB
    budget.check(1024, MIB)
    with pytest.raises(ModelRefused, match="set KV_BLOCKS to at most 1024 or GRAPHS to at most 56$"):
        budget.check(2048, MIB)


class TestNextStart:
    def test_it_finds_the_shapes_of_the_last(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker, tmp_path: Path
    ) -> None:
        """Though other memory is free, and though the trial, which it leaves out, would say something else."""
        recipes = str(tmp_path / "recipes")
        free = 11 * MIB + 10 * BLOCK
        first = started(monkeypatch, model_of("llama"), free, recipes=recipes)
        again = started(monkeypatch, model_of("llama"), free + 3 * BLOCK, kept=MIB, recipes=recipes)
        assert again.whole.digest == first.whole.digest

    def test_on_another_device_it_measures_anew(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker, tmp_path: Path
    ) -> None:
        recipes, free = str(tmp_path), 11 * MIB + 10 * BLOCK
        started(monkeypatch, model_of("llama"), free, recipes=recipes)
        monkeypatch.setattr(Card, "info", lambda self: {"card": "another"})
        again = started(monkeypatch, model_of("llama"), free + 3 * BLOCK, recipes=recipes)
        assert again.plan.limits.num_blocks == 13

    def test_it_measures_anew_what_no_longer_fits(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker, tmp_path: Path
    ) -> None:
        recipes = str(tmp_path)
        started(monkeypatch, model_of("llama"), 11 * MIB + 10 * BLOCK, recipes=recipes)
        again = started(monkeypatch, model_of("llama"), 11 * MIB + 7 * BLOCK, recipes=recipes)
        assert again.plan.limits.num_blocks == 7
        kept = last_start(recipes, DEVICE)
        assert kept and kept.limits.num_blocks == 7

    def test_traffic_changes_the_plan_only_where_enough_is_saved(
        self, monkeypatch: pytest.MonkeyPatch, model_of: Maker, tmp_path: Path
    ) -> None:
        recipes, counts = str(tmp_path), tmp_path / "histogram.json"

        def plan_for(shapes: dict[Shape, int], recipes: str) -> str:
            Histogram(shapes).save(counts)
            spec: dict[str, Any] = {"recipes": recipes, "histogram": str(counts), "slots": 16}
            return started(monkeypatch, model_of("llama"), 10 * GIB, **spec).whole.digest

        few: dict[Shape, int] = {("decode", 1, 1): 10**6, ("prefill", 16, 1): 1000}
        many: dict[Shape, int] = {("decode", 13, 3): 10**6, ("prefill", 48, 3): 1000}
        first = plan_for(few, recipes)
        assert plan_for(many, recipes) == first
        monkeypatch.setattr(assembly, "REPLAN", -1.0)
        assert plan_for(many, recipes) == plan_for(many, "") != first

    def test_what_cannot_be_read_is_as_nothing(self, tmp_path: Path) -> None:
        assert last_start("", DEVICE) is None
        assert last_start(str(tmp_path), DEVICE) is None
        for text in ("{", "{}", '{"limits": {}, "buckets": [], "need": {"step": 1}}'):
            (tmp_path / FILE).write_text(text)
            assert last_start(str(tmp_path), DEVICE) is None

    def test_what_is_kept_is_read_again(self, tmp_path: Path) -> None:
        limits = Limits(
            slots=2,
            block_size=16,
            num_blocks=9,
            max_input_tokens=63,
            max_total_tokens=64,
            prefill_chunk=32,
            prefill_batch=2,
            layout="flat",
        )
        start = Start(limits, (bucket_of(limits, "decode", 2, 8),), Need(step=1, bucket=2), DEVICE)
        start.save(str(tmp_path / "new"))
        assert last_start(str(tmp_path / "new"), DEVICE) == start
        assert last_start(str(tmp_path / "new"), "another card") is None
        start.save("/proc/nowhere")  # a folder that cannot be written is no reason not to serve
