"""2 and 4 without lazy mode: no graph names, each operation its own recipe, and torch.compile."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import habana_frameworks.torch.core as htcore
import habana_frameworks.torch.internal.bridge_config as bc
import pytest
import torch
from habana_frameworks.stand_in import LEDGER, Unsealed
from habana_frameworks.torch.utils.internal import is_lazy
from torch import Tensor

hpu: Any = torch.get_device_module("hpu")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    bc.set_pt_compile_only_mode(False)


def compiled(function: Any, **options: Any) -> Any:
    return torch.compile(function, backend="hpu_backend", fullgraph=True, dynamic=False, **options)


@pytest.mark.parametrize(
    "name", ["HPUGraph", "graph", "wrap_in_hpu_graph", "make_graphed_callables", "ModuleCacher"]
)
def test_there_are_no_graphs(name: str) -> None:
    assert not is_lazy()
    assert not hasattr(hpu, name)


def test_a_step_does_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert htcore.iter_mark_step() is None
    assert [record.message for record in caplog.records if "iter_mark_step" in record.message] == [
        "iter_mark_step is for lazy mode only: it does nothing"
    ]


def test_each_operation_outside_is_a_recipe() -> None:
    x = torch.ones(3, 5, device="hpu")
    before = LEDGER.recipes
    _ = x * 13 + 1
    assert LEDGER.recipes == before + 2
    _ = x * 13 + 1
    assert LEDGER.recipes == before + 2


def test_a_compiled_function_is_one_recipe_for_each_shape() -> None:
    function = compiled(lambda x: (x * 2 + 1).sum(0))
    wide, narrow = torch.ones(3, 5, device="hpu"), torch.ones(3, 4, device="hpu")
    before = LEDGER.recipes
    for _ in range(2):
        assert function(wide).tolist() == [9] * 5
    assert LEDGER.recipes == before + 1
    assert function(narrow).tolist() == [9] * 4
    assert LEDGER.recipes == before + 2


def test_symbolic_shapes_do_not_share_recipes() -> None:
    function = torch.compile(lambda x: x * 2, backend="hpu_backend", dynamic=True)
    before = LEDGER.recipes
    for size in (3, 4, 5):
        function(torch.ones(size, device="hpu"))
    made = LEDGER.recipes - before
    assert made >= 3
    for size in (3, 4, 5):
        function(torch.ones(size, device="hpu"))
    assert LEDGER.recipes - before == made


def test_state_is_written_in_a_compiled_function() -> None:
    pool = torch.zeros(4, 2, device="hpu")

    def write(slot: Tensor, row: Tensor) -> Tensor:
        pool.index_copy_(0, slot, row)
        return pool.sum()

    with torch.inference_mode():
        out = compiled(write)(torch.tensor([2]).to("hpu"), torch.ones(1, 2, device="hpu"))
    assert out.item() == 2 and pool[2].tolist() == [1, 1]


def test_an_unknown_option_is_refused() -> None:
    options = {"force_static_compile": True, "keep_input_mutations": True}
    assert compiled(lambda x: x + 1, options=options)(torch.ones(1, device="hpu")).item() == 2
    with pytest.raises(Exception, match="no option"):
        compiled(lambda x: x + 2, options={"max_autotune": True})(torch.ones(1, device="hpu"))


class TestCompileOnly:
    def test_it_compiles_and_gives_garbage_and_writes_nothing(self) -> None:
        pool = torch.zeros(2, device="hpu")

        def function(x: Tensor) -> tuple[Tensor, Tensor]:
            pool.add_(x)
            return pool * 2, pool.argmax()

        call, x = compiled(function), torch.ones(2, device="hpu")
        before = LEDGER.recipes
        with torch.inference_mode(), bc.env_setting("PT_COMPILE_ONLY_MODE", True):
            assert bc.get_pt_compile_only_mode()
            numbers, index = call(x)
        assert LEDGER.recipes == before + 1
        assert all(map(math.isnan, numbers.tolist())) and index.item() == 0
        assert pool.tolist() == [0, 0]
        with torch.inference_mode():
            assert call(x)[0].tolist() == [2, 2]
        assert LEDGER.recipes == before + 1

    def test_so_does_an_operation_outside(self) -> None:
        x = torch.ones(2, device="hpu")
        with bc.env_setting("PT_COMPILE_ONLY_MODE", True):
            y = x * 17
            x.mul_(19)
        assert all(map(math.isnan, y.tolist())) and x.tolist() == [1, 1]

    def test_the_first_launch_is_no_matter_of_serving(self) -> None:
        call, x = compiled(lambda x: x * 23), torch.ones(2, device="hpu")
        with bc.env_setting("PT_COMPILE_ONLY_MODE", True):
            call(x)
        with LEDGER.sealed(), pytest.raises(Unsealed, match="first launch"):
            call(x)
        call(x)
        with LEDGER.sealed():
            call(x)

    def test_an_unknown_flag_is_a_key_error(self) -> None:
        with pytest.raises(KeyError), bc.env_setting("PT_NO_SUCH_FLAG", True):
            pass

    def test_an_exception_leaves_it_set(self) -> None:
        with pytest.raises(ZeroDivisionError), bc.env_setting("PT_COMPILE_ONLY_MODE", True):
            raise ZeroDivisionError
        assert bc.get_pt_compile_only_mode()


def test_what_was_not_warmed_up_does_not_pass_the_seal() -> None:
    function, x = compiled(lambda x: x * 29), torch.ones(2, device="hpu")
    function(x)
    with LEDGER.sealed():
        function(x)
        with pytest.raises(Unsealed, match="a recipe that warm-up did not show"):
            function(torch.ones(3, device="hpu"))
        with pytest.raises(Unsealed, match="a recipe that warm-up did not show"):
            _ = x * 31


def test_dynamo_can_be_told_to_fail_instead() -> None:
    function = compiled(lambda x: x * 2)
    function(torch.ones(2, device="hpu"))
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
        function(torch.ones(3, device="hpu"))
