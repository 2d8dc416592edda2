"""2 and 4 in lazy mode: what is gathered until a step, and what torch.compile is told."""

from __future__ import annotations

from typing import Any

import habana_frameworks.torch.core as htcore
import pytest
import torch
from habana_frameworks.stand_in import LEDGER
from habana_frameworks.torch.utils.internal import is_lazy

hpu: Any = torch.get_device_module("hpu")


def test_the_mode_is_lazy_and_has_graphs() -> None:
    assert is_lazy()
    for name in ("HPUGraph", "graph", "wrap_in_hpu_graph", "wrap_in_hpu_graph_func", "ModuleCacher"):
        assert hasattr(hpu, name)


def test_mark_step_takes_its_own_arguments_alone() -> None:
    htcore.mark_step("hpu", sync=True)
    with pytest.raises(TypeError):
        htcore.mark_step(wait=True)


def test_torch_compile_is_refused() -> None:
    compiled = torch.compile(lambda x: x + 1, backend="hpu_backend", fullgraph=True)
    with pytest.raises(Exception, match="PT_HPU_LAZY_MODE=0"):
        compiled(torch.ones(2, device="hpu"))


def test_operations_are_one_recipe_for_each_step() -> None:
    x = torch.ones(3, 5, device="hpu")
    htcore.mark_step()
    recipes, launches = LEDGER.recipes, LEDGER.launches
    for _ in range(3):
        (x * 2 + 1).sum(0)
        htcore.mark_step()
    assert (LEDGER.recipes - recipes, LEDGER.launches - launches) == (1, 3)
    htcore.mark_step()
    assert LEDGER.launches - launches == 3


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[:2] * 2,  # a shape
        lambda x: x * 3,  # a number
        lambda x: x.int() * 2,  # a dtype
        lambda x: x * 2 + x,  # an operation
        lambda x: x.t() * 2,  # an order in memory
    ],
)
def test_another_shape_number_dtype_or_operation_is_another_recipe(other: Any) -> None:
    x = torch.ones(3, 5, device="hpu")
    htcore.mark_step()
    _ = x * 2
    htcore.mark_step()
    recipes = LEDGER.recipes
    _ = x * 2
    htcore.mark_step()
    assert LEDGER.recipes == recipes
    other(x)
    htcore.mark_step()
    assert LEDGER.recipes == recipes + 1


def test_a_read_launches_what_was_gathered() -> None:
    x = torch.ones(7, device="hpu")
    htcore.mark_step()
    launches = LEDGER.launches
    assert (x + 1).sum().item() == 14
    assert LEDGER.launches == launches + 1


def test_a_copy_that_does_not_block_needs_a_step_before() -> None:
    x = torch.ones(2, device="hpu") + 1
    with pytest.raises(RuntimeError, match="mark_step"):
        x.to("cpu", non_blocking=True)
    htcore.mark_step()
    there = x.to("cpu", non_blocking=True)
    hpu.synchronize()
    assert there.tolist() == [2, 2]


def test_closures_run_after_the_step() -> None:
    seen: list[int] = []
    htcore.add_step_closure(seen.append, (1,))
    assert seen == []
    htcore.mark_step()
    htcore.mark_step()
    assert seen == [1]
