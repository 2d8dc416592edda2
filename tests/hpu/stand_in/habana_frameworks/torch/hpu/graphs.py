"""HPU Graphs, in lazy mode alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...stand_in.capture import CAPTURING, Tape
from ...stand_in.dispatch import flush, ready
from ...stand_in.streams import TIME, Stream

__all__ = ["HPUGraph", "ModuleCacher", "graph", "wrap_in_hpu_graph", "wrap_in_hpu_graph_func"]


class HPUGraph:
    """One captured graph: it replays on the memory that it was captured with."""

    def __init__(self) -> None:
        self._tape: Tape | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] | None = None

    def capture_begin(self, dry_run: bool = False) -> None:
        """From now on all that runs is captured; what was gathered before is launched first."""
        ready()
        if CAPTURING.tape is None:
            flush()
        CAPTURING.begin(dry_run)

    def capture_end(self) -> None:
        """Compile what was captured."""
        self._tape = CAPTURING.end()

    def replay(self, asynchronous: bool = False) -> None:
        """Run it on what its inputs now hold; its outputs are the same tensors every time."""
        ready()
        CAPTURING.forbid("replay")
        if self._tape is None:
            raise RuntimeError("this graph was not captured, or was reset")
        flush()
        self._tape.replay()

    def replayV2(
        self, static_tlist: Sequence[Tensor], tlist: Sequence[Tensor], asynchronous: bool = False
    ) -> None:
        """Replay with `tlist` in place of the tensors of `static_tlist`."""
        for static, given in zip(static_tlist, tlist, strict=True):
            static.copy_(given)
        self.replay(asynchronous)

    def replayV3(self, tlistI: Sequence[Tensor], asynchronous: bool = False) -> None:
        """Replay with these in place of the user's inputs, all of them in their order."""
        self.replayV2(self._inputs, tlistI, asynchronous)

    def mark_user_inputs(self, inputs: list[Tensor]) -> None:
        """Which tensors `replayV3` replaces."""
        self._inputs = list(inputs)

    def mark_user_outputs(self, outputs: list[Tensor]) -> None:
        """Which tensors the user will read; once per graph."""
        if self._outputs is not None:
            raise RuntimeError("the outputs of a graph are marked once")
        self._outputs = list(outputs)

    def get_user_input_match_indices(self) -> list[int]:
        """Which of the user's inputs the graph binds: all."""
        return list(range(len(self._inputs)))

    def clear_inputs(self) -> None:
        """Let the inputs go."""
        self._inputs = []

    def reset(self) -> None:
        """Let the graph go: it cannot be replayed any more."""
        self._tape = None
        self._inputs, self._outputs = [], None

    def __del__(self) -> None:
        self._tape = None


class graph:
    """Capture what runs within it, on a stream of its own."""

    default_capture_stream: Stream | None = None

    def __init__(self, hpu_graph: HPUGraph, stream: Stream | None = None, dry_run: bool = False) -> None:
        if type(self).default_capture_stream is None:
            type(self).default_capture_stream = Stream()
        self._graph, self._dry_run = hpu_graph, dry_run
        self._on = TIME.on(stream or self.default_capture_stream or Stream())

    def __enter__(self) -> None:
        flush()
        TIME.wait_for_all()
        self._on.__enter__()
        self._graph.capture_begin(self._dry_run)

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._graph.capture_end()
            else:
                CAPTURING.abandon()
        finally:
            self._on.__exit__(*error)


@dataclass
class _Cached:
    """A graph with what it was captured on and what it gave."""

    graph: HPUGraph
    inputs: list[Tensor]
    outputs: Any


def input_hash(value: Any) -> Hashable:
    """A wrapped call's key: of a tensor its shape and view, not its dtype, device or values; of all else the value."""
    if isinstance(value, Tensor):
        return (
            "tensor",
            tuple(value.shape),
            value.stride(),
            value.storage_offset(),
            torch.is_autocast_enabled(),
        )
    if isinstance(value, (list, tuple)):
        return tuple(map(input_hash, value))
    if isinstance(value, dict):
        return tuple((name, input_hash(each)) for name, each in sorted(value.items()))
    return (type(value).__name__, hash(value))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return [each for part in value for each in _tensors(part)] if isinstance(value, (list, tuple)) else []


@dataclass
class _Wrapped:
    """A function whose calls are replayed by key."""

    function: Callable[..., Any]
    asynchronous: bool = False
    disable_tensor_cache: bool = False
    dry_run: bool = False
    max_graphs: int | None = None
    cache: dict[Hashable, _Cached] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay, or capture the first time; `bypass_hpu_graphs` and `warmup_mode` are taken out of the call."""
        bypass, warm = kwargs.pop("bypass_hpu_graphs", False), kwargs.pop("warmup_mode", False)
        if bypass:
            return self.function(*args, **kwargs)
        key = (input_hash(args), input_hash(kwargs))
        kwargs.pop("cache_tensors_list", None)
        cached = self.cache.get(key)
        if cached is None:
            if self.max_graphs is not None and len(self.cache) >= self.max_graphs:
                return self.function(*args, **kwargs)
            return self._capture(key, args, kwargs)
        if not warm:
            cached.graph.replayV2(cached.inputs, _tensors((args, kwargs)), self.asynchronous)
        return cached.outputs

    def _capture(self, key: Hashable, args: Any, kwargs: Any) -> Any:
        captured = HPUGraph()
        dry_run = self.dry_run or self.disable_tensor_cache
        with graph(captured, dry_run=dry_run):
            outputs = self.function(*args, **kwargs)
        self.cache[key] = _Cached(captured, _tensors((args, kwargs)), outputs)
        captured.replay(self.asynchronous)
        return outputs

    def clear_cache(self) -> None:
        """Let all graphs go."""
        self.cache.clear()

    def clear_inputs(self) -> None:
        """Let their inputs go."""
        for cached in self.cache.values():
            cached.graph.clear_inputs()


def wrap_in_hpu_graph_func(
    func: Callable[..., Any],
    asynchronous: bool = False,
    disable_tensor_cache: bool = False,
    dry_run: bool = False,
    max_graphs: int | None = None,
) -> Callable[..., Any]:
    """The function with its calls replayed; beyond `max_graphs` they silently run without a graph."""
    if os.environ.get("PT_HPUGRAPH_DISABLE_TENSOR_CACHE") is not None:
        disable_tensor_cache = os.environ["PT_HPUGRAPH_DISABLE_TENSOR_CACHE"] == "1"
    return _Wrapped(func, asynchronous, disable_tensor_cache, dry_run, max_graphs)


def wrap_in_hpu_graph(
    module: nn.Module,
    asynchronous: bool = False,
    disable_tensor_cache: bool = False,
    dry_run: bool = False,
    max_graphs: int | None = None,
) -> nn.Module:
    """The module, its forward replaced, with clear_cache and clear_inputs."""
    patched: Any = module
    wrapped: Any = wrap_in_hpu_graph_func(
        patched.forward, asynchronous, disable_tensor_cache, dry_run, max_graphs
    )
    patched.forward = functools.wraps(patched.forward)(lambda *args, **kwargs: wrapped(*args, **kwargs))
    patched.clear_cache, patched.clear_inputs = wrapped.clear_cache, wrapped.clear_inputs
    return module


class ModuleCacher:
    """Wraps a module by call: ModuleCacher(max_graphs)(model)."""

    def __init__(self, max_graphs: int = 10) -> None:
        self._max_graphs = max_graphs

    def __call__(self, model: nn.Module) -> nn.Module:
        """The wrapped module."""
        return wrap_in_hpu_graph(model, max_graphs=self._max_graphs)
