"""3: a device whose tensors do not mix with the host's, whose int64 is an int32, and which pins no memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from habana_frameworks.stand_in import LEDGER, Unsealed


def test_tensors_live_on_the_card_and_come_back() -> None:
    there = torch.arange(6.0).view(2, 3).to("hpu")
    assert there.device == torch.device("hpu:0") and there.device.type == "hpu"
    assert torch.equal((there @ there.t()).cpu(), torch.tensor([[5.0, 14.0], [14.0, 50.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int32, torch.bool])
def test_what_is_computed_is_what_the_host_computes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(5, 7) * 3).to(dtype)
    there = x.to("hpu")
    assert torch.equal(torch.cat([there, there], 1)[:, 2:9].cpu(), torch.cat([x, x], 1)[:, 2:9])
    assert torch.equal((there + there).sum(0).cpu(), (x + x).sum(0))


def test_the_hosts_tensors_do_not_mix_with_the_cards() -> None:
    there = torch.ones(2, 3, device="hpu")
    ways: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: there + torch.ones(2, 3),
        lambda: there @ torch.ones(3, 2),
        lambda: there.index_select(0, torch.tensor([0])),
        lambda: torch.cat([there, torch.ones(2, 3)]),
        lambda: torch.where(there > 0, torch.ones(2, 3), there),
        lambda: there.index_copy_(0, torch.tensor([0], device="hpu"), torch.ones(1, 3)),
    )
    for mixed in ways:
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert (there + torch.tensor(1.0)).sum().item() == 12  # a number in a tensor is a number


def test_an_int64_beyond_int32_is_an_error() -> None:
    big = torch.tensor([2**31], dtype=torch.int64)
    with pytest.raises(OverflowError):
        big.to("hpu")
    fits = torch.tensor([2**31 - 1], device="hpu")
    with pytest.raises(OverflowError):
        fits + 1
    with pytest.raises(OverflowError):
        fits *= 2


def test_there_is_no_pinned_memory() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(2).pin_memory()


def test_there_are_no_complex_numbers() -> None:
    with pytest.raises(RuntimeError, match="complex"):
        torch.complex(torch.ones(2, device="hpu"), torch.ones(2, device="hpu"))


def test_an_index_of_minus_one_is_an_error_as_on_the_host() -> None:
    pool = torch.zeros(4, 2, device="hpu")
    with pytest.raises(IndexError):
        pool.index_copy_(0, torch.tensor([-1], device="hpu"), torch.ones(1, 2, device="hpu"))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: bool(x.sum()),
        lambda x: float(x.sum()),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: torch.equal(x, x),
        lambda x: x.to("cpu"),
        lambda x: torch.unique(x),
        lambda x: repr(x),
    ],
)
def test_every_read_is_counted_and_none_passes_the_seal(read: object) -> None:
    assert callable(read)
    x = torch.arange(4.0).to("hpu")
    read(x)
    before = LEDGER.syncs.total()
    read(x)
    assert LEDGER.syncs.total() > before
    with LEDGER.sealed(), pytest.raises(Unsealed):
        read(x)


def test_memory_that_was_not_filled_is_shared_by_views_and_by_nobody_else() -> None:
    base = torch.zeros(4, 4, device="hpu")
    base[1].fill_(2)
    base.t()[0].add_(1)
    copy = base.clone()
    base.zero_()
    assert copy.tolist() == [[1, 0, 0, 0], [3, 2, 2, 2], [1, 0, 0, 0], [1, 0, 0, 0]]


def test_modules_move() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3).requires_grad_(False)
    x = torch.randn(2, 4)
    expected = layer(x)
    assert torch.equal(layer.to("hpu")(x.to("hpu")).cpu(), expected)
    assert {each.device.type for each in layer.parameters()} == {"hpu"}


def test_a_seed_repeats_the_random_numbers() -> None:
    torch.get_device_module("hpu").random.manual_seed_all(3)
    first = torch.rand(4, device="hpu").tolist()
    torch.manual_seed(3)
    assert torch.rand(4, device="hpu").tolist() == first
