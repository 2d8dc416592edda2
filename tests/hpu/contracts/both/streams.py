"""9: what a copy to the host gives before somebody has waited, and what streams may rely on."""

from __future__ import annotations

import math
from typing import Any

import habana_frameworks.torch.core as htcore
import pytest
import torch
from habana_frameworks.stand_in import LEDGER

hpu: Any = torch.get_device_module("hpu")


def written(*values: float) -> torch.Tensor:
    """A tensor of the card that an operation has written and that was launched."""
    out = torch.tensor(values, dtype=torch.float32).to("hpu") + 1
    htcore.mark_step()
    return out


def test_a_copy_is_poison_until_its_event() -> None:
    x = written(1, 2)
    syncs, copies = LEDGER.syncs.total(), LEDGER.copies_out
    there = x.to("cpu", non_blocking=True)
    event = hpu.Event()
    event.record()
    assert all(map(math.isnan, there.tolist()))
    event.synchronize()
    assert there.tolist() == [2, 3]
    assert (LEDGER.syncs.total(), LEDGER.copies_out) == (syncs, copies + 1)


def test_integers_are_poisoned_too() -> None:
    there = (torch.tensor([4, 5], device="hpu")).to("cpu", non_blocking=True)
    assert there.tolist() == [-127, -127]
    hpu.synchronize()
    assert there.tolist() == [4, 5]


def test_an_event_before_the_copy_says_nothing_of_it() -> None:
    x = written(1)
    event = hpu.Event()
    event.record()
    there = x.to("cpu", non_blocking=True)
    event.synchronize()
    assert math.isnan(there.item())
    hpu.current_stream().synchronize()
    assert there.item() == 2


def test_a_query_never_says_yes_at_once() -> None:
    there = written(1).to("cpu", non_blocking=True)
    event = hpu.current_stream().record_event()
    assert not event.query()
    assert event.query() and there.item() == 2


def test_a_second_stream_must_wait_for_what_it_reads() -> None:
    side, x = hpu.Stream(), written(1)
    with hpu.stream(side), pytest.raises(RuntimeError, match="may not have written"):
        x.to("cpu", non_blocking=True)
    side.wait_stream(hpu.current_stream())
    with hpu.stream(side):
        there = x.to("cpu", non_blocking=True)
    side.synchronize()
    assert there.item() == 2


def test_what_a_copy_still_reads_must_not_be_overwritten() -> None:
    side, x = hpu.Stream(), written(1)
    side.wait_stream(hpu.current_stream())
    with hpu.stream(side):
        there = x.to("cpu", non_blocking=True)
        event = side.record_event()
    with pytest.raises(RuntimeError, match="may still be reading"):
        x.add_(1)
    event.wait()
    x.add_(1)
    event.synchronize()
    assert there.item() == 2


def test_on_one_stream_the_order_is_the_order() -> None:
    x = written(1)
    there = x.to("cpu", non_blocking=True)
    x.add_(1)
    htcore.mark_step()
    hpu.synchronize()
    assert there.item() == 2 and x.item() == 3


def test_time_between_events_needs_timing() -> None:
    first, second = hpu.Event(enable_timing=True), hpu.Event(enable_timing=True)
    first.record()
    second.record()
    assert first.elapsed_time(second) >= 0
    with pytest.raises(RuntimeError, match="enable_timing"):
        first.elapsed_time(hpu.Event())
