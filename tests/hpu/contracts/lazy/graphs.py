"""5: HPU Graphs replay on the memory of their capture, and what must not be captured is not."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from typing import Any

import habana_frameworks.torch.core as htcore
import pytest
import torch
from habana_frameworks.stand_in import LEDGER
from torch import Tensor

hpu: Any = torch.get_device_module("hpu")


@pytest.fixture(autouse=True)
def _no_capture_is_left() -> Iterator[None]:
    from habana_frameworks.stand_in.capture import CAPTURING

    yield
    CAPTURING.abandon()


def captured(function: Callable[..., Any], *static: Tensor, **options: bool) -> tuple[Any, Any]:
    graph = hpu.HPUGraph()
    with hpu.graph(graph, **options):
        out = function(*static)
    return graph, out


def on_card(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to("hpu")


def test_a_replay_reads_the_static_buffers_and_overwrites_the_same_outputs() -> None:
    x = on_card(1, 2)
    graph, out = captured(lambda x: (x + 1) * 2, x)
    graph.replay()
    assert out.tolist() == [4, 6]
    x.copy_(torch.tensor([5.0, 6.0]))
    assert out.tolist() == [4, 6]  # nothing has run
    kept = out
    graph.replay(asynchronous=False)
    assert kept.tolist() == [12, 14] and kept is out


def test_a_forgotten_copy_shows_stale_numbers() -> None:
    x = on_card(1)
    graph, out = captured(lambda x: x + 1, x)
    x = on_card(10)  # a new tensor is not the graph's
    graph.replay()
    assert out.tolist() == [2]


def test_what_a_capture_gave_is_not_a_result() -> None:
    _, out = captured(lambda x: x + 1, on_card(1))
    assert math.isnan(out.item())


def test_state_is_written_by_every_replay() -> None:
    pool, slot = torch.zeros(4, 2, device="hpu"), torch.tensor([1]).to("hpu")
    row = torch.ones(1, 2, device="hpu")
    graph, _ = captured(lambda: pool.index_copy_(0, slot, row * 3))
    slot.copy_(torch.tensor([2]))
    graph.replay()
    assert pool[2].tolist() == [3, 3]


def test_a_dry_run_leaves_the_state_as_it_was() -> None:
    count = torch.zeros(1, device="hpu")
    graph, _ = captured(lambda: count.add_(1), dry_run=True)
    assert count.item() == 0
    graph.replay()
    assert count.item() == 1


def test_a_capture_is_one_recipe_and_a_step_in_it_makes_it_two() -> None:
    def whole(x: Tensor) -> Tensor:
        return (x * 7 + 1) * 7

    def parted(x: Tensor) -> Tensor:
        y = x * 9 + 1
        htcore.mark_step()
        return y * 9

    x = on_card(1, 2, 3)
    htcore.mark_step()
    for function, expected in ((whole, 1), (parted, 2)):
        recipes = LEDGER.recipes
        graph, _ = captured(function, x)
        assert LEDGER.recipes - recipes == expected
        launches = LEDGER.launches
        graph.replay()
        assert LEDGER.launches - launches == expected
        assert LEDGER.recipes - recipes == expected


def test_equal_captures_share_their_recipe() -> None:
    captured(lambda x: x * 11, on_card(1, 2))
    recipes = LEDGER.recipes
    captured(lambda x: x * 11, on_card(3, 4))
    assert LEDGER.recipes == recipes


def test_one_capture_at_a_time() -> None:
    graph, other = hpu.HPUGraph(), hpu.HPUGraph()
    graph.capture_begin()
    with pytest.raises(RuntimeError, match="already in progress"):
        other.capture_begin()
    graph.capture_end()


def test_a_capture_ends_on_the_stream_it_began_on() -> None:
    graph = hpu.HPUGraph()
    graph.capture_begin()
    with hpu.stream(hpu.Stream()), pytest.raises(RuntimeError, match="stream it began on"):
        graph.capture_end()


def test_no_replay_while_capturing() -> None:
    graph, _ = captured(lambda x: x + 1, on_card(1))
    with pytest.raises(RuntimeError, match="not supported during"), hpu.graph(hpu.HPUGraph()):
        graph.replay()


def test_a_graph_that_was_reset_or_never_captured_does_not_replay() -> None:
    graph, _ = captured(lambda x: x + 1, on_card(1))
    graph.reset()
    for each in (graph, hpu.HPUGraph()):
        with pytest.raises(RuntimeError, match="not captured"):
            each.replay()


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: x.copy_(torch.ones(2)),
        lambda x: torch.tensor([1.0]).to("hpu"),
        lambda x: x.view(2, 1).add_(1),
        lambda x: x[:1].zero_(),
        lambda x: (x + 1)[1:].mul_(2),
        lambda x: hpu.synchronize(),
    ],
)
def test_what_the_host_would_have_to_do_is_not_captured(forbidden: Any) -> None:
    with pytest.raises(RuntimeError, match="is not supported during HPU Graph capturing"):
        captured(forbidden, on_card(1, 2))
    captured(lambda x: x + 1, on_card(1, 2))  # and the next capture is as good as any


def test_a_view_may_be_read_and_a_whole_tensor_written() -> None:
    x = on_card(1, 2)
    graph, out = captured(lambda x: x.view(2, 1).t() + x[1:].add(1), x)
    graph.replay()
    assert out.tolist() == [[4, 5]]


def test_a_graph_holds_the_memory_between_its_operations() -> None:
    gc.collect()
    x = torch.ones(1000, device="hpu")
    before = hpu.memory_allocated()
    graph, out = captured(lambda x: ((x + 1) * 2).sum(), x)
    assert hpu.memory_allocated() - before >= 2 * 4000
    del graph
    gc.collect()
    assert hpu.memory_allocated() - before < 4000
    del out


def test_what_was_gathered_before_runs_before() -> None:
    x = on_card(1)
    graph, out = captured(lambda x: x + 1, x)
    x.add_(5)
    graph.replay()
    assert out.tolist() == [7]


def test_a_replay_that_overwrites_what_a_copy_reads_is_refused() -> None:
    x, side = on_card(1), hpu.Stream()
    graph, out = captured(lambda x: x + 1, x)
    graph.replay()
    side.wait_stream(hpu.current_stream())
    with hpu.stream(side):
        there = out.to("cpu", non_blocking=True)
        event = side.record_event()
    with pytest.raises(RuntimeError, match="may still be reading"):
        graph.replay()
    event.synchronize()
    graph.replay()
    assert there.tolist() == [2]


def test_replays_with_other_tensors_copy_them_in() -> None:
    x = on_card(1)
    graph, out = captured(lambda x: x + 1, x)
    graph.replayV2([x], [on_card(4)])
    assert out.tolist() == [5]
    graph.mark_user_inputs([x])
    graph.replayV3([on_card(6)])
    assert out.tolist() == [7]
    graph.mark_user_outputs([out])
    with pytest.raises(RuntimeError, match="once"):
        graph.mark_user_outputs([out])
