"""6: `wrap_in_hpu_graph`, whose key sees shapes and views, no dtypes, and every number by its value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

hpu: Any = torch.get_device_module("hpu")


class Scaled(nn.Module):
    """Counts how often its forward is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.traced = 0

    def forward(self, x: Tensor, by: Any = 2) -> Tensor:
        self.traced += 1
        out: Tensor = x * by
        return out


def wrapped(**options: Any) -> Any:
    return hpu.wrap_in_hpu_graph(Scaled(), **options)


def on_card(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to("hpu")


def test_calls_of_one_shape_are_one_graph() -> None:
    module = wrapped()
    first = module(on_card(1, 2))
    assert first.tolist() == [2, 4]
    second = module(on_card(3, 4))
    assert second is first and first.tolist() == [6, 8] and module.traced == 1


def test_every_python_number_is_a_graph_and_no_value_in_a_tensor_is() -> None:
    module = wrapped()
    for by in (2, 3, 2.5, 3):
        assert module(on_card(1), by).tolist() == [by]
    assert module.traced == 3
    for value in (2, 3):
        assert module(on_card(1), on_card(value)).tolist() == [value]
    assert module.traced == 4


def test_shapes_and_views_are_in_the_key() -> None:
    module, x = wrapped(), torch.ones(4, 4, device="hpu")
    for each in (x, x[:2], x[2:], x.t()):
        module(each)
    assert module.traced == 4


def test_dtypes_are_not_in_the_key() -> None:
    module = wrapped()
    module(on_card(1, 2))
    assert module(torch.tensor([3, 4], dtype=torch.int32).to("hpu")).dtype == torch.float32
    assert module.traced == 1


def test_beyond_max_graphs_it_runs_without_one() -> None:
    module = wrapped(max_graphs=1)
    module(on_card(1))
    for _ in range(2):
        assert module(on_card(1, 2)).tolist() == [2, 4]
    assert module.traced == 3


def test_what_is_popped_from_the_call_is_not_hashed() -> None:
    module = wrapped()
    out = module(on_card(1))
    assert module(on_card(5), bypass_hpu_graphs=True).tolist() == [10]
    assert out.tolist() == [2]
    assert module(on_card(7), warmup_mode=True).tolist() == [2]  # what the last replay gave
    assert module.traced == 2


def test_its_cache_and_inputs_can_be_cleared() -> None:
    module = wrapped(disable_tensor_cache=True)
    module(on_card(1))
    module.clear_inputs()
    module.clear_cache()
    module(on_card(1))
    assert module.traced == 2


@pytest.mark.parametrize("unknown", ["hash_with_views", "pool"])
def test_it_takes_no_unknown_argument(unknown: str) -> None:
    with pytest.raises(TypeError):
        wrapped(**{unknown: True})


def test_a_function_can_be_wrapped() -> None:
    call = hpu.wrap_in_hpu_graph_func(lambda x: x + 1)
    assert call(on_card(1)).tolist() == [2] and call(on_card(2)).tolist() == [3]
