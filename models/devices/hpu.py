"""Gaudi: the only file that imports habana_frameworks, and so the only one that must follow it.

Written from its sources (1.19, Apache-2.0) and from what vllm-gaudi and optimum-habana call in 1.21 to 1.24; no card
has run it yet. Habana's two modes are two strategies: in lazy mode operations are gathered until `mark_step`, and HPU
Graphs replay them; in mode 0 torch.compile makes one graph of a program. Which it is was decided by PT_HPU_LAZY_MODE
before this import, at which it latches, as nearly every setting does: see models/environment.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import habana_frameworks.torch as htorch
import habana_frameworks.torch.core as htcore
import torch
import torch.nn.functional as F
from habana_frameworks.torch import hpu
from habana_frameworks.torch.hpex.kernels import (
    FusedSDPA,
    RotaryPosEmbeddingMode,
    apply_rotary_pos_emb,
)
from habana_frameworks.torch.hpex.normalization import FusedRMSNorm
from habana_frameworks.torch.hpu.metrics import metric_global
from habana_frameworks.torch.utils.experimental import _get_device_type, synDeviceType
from torch import Tensor, nn

from models.captured import Compiled, Function, Outputs, Strategy
from models.devices.device import Memory
from models.environment import GAUDI_PLUGIN
from models.kernels import Kernels
from models.plan import Layout

GENERATIONS: Mapping[Any, str] = {
    synDeviceType.synDeviceGaudi: "gaudi",
    synDeviceType.synDeviceGaudi2: "gaudi2",
    synDeviceType.synDeviceGaudi3: "gaudi3",
}
"""By device type, the row in models.cost.MACHINES."""

PREPARE_INFERENCE = ("hpu_inference_set_env", "hpu_set_inference_env", "hpu_set_env")
"""The names that one call has had, newest first."""

BACKEND = "hpu_backend"
"""Habana's name in torch.compile's registry."""

_WINDOW_AND_SINKS: tuple[Any, ...] = (
    ((-1, -1), None) if "sinks" in inspect.signature(FusedSDPA.forward).parameters else ()
)
"""What FusedSDPA takes since 1.24 behind the 13 arguments that it had."""


def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """As models.kernels.attention. FusedSDPA takes a mask or is causal, never both; it knows shared K/V heads."""
    width = values.shape[-1]
    values = F.pad(values, (0, query.shape[-1] - width))  # of latents: a value is narrower than a key
    out: Tensor = FusedSDPA.apply(
        query, keys, values, mask,
        0.0,  # dropout_p
        False,  # is_causal
        scale,
        "fast",  # softmax_mode
        True,  # recompute_mode: no scores are kept
        None,  # valid_seq_len: needs is_causal
        "right",  # seq_padding_type
        False,  # return_dropout_mask
        False,  # return_attn_probs
        *_WINDOW_AND_SINKS,
    )  # fmt: skip
    return out[..., :width]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As models.kernels.rms_norm; the kernel takes three dimensions, and one dtype for both."""
    out: Tensor = FusedRMSNorm.apply(x.reshape(-1, *x.shape[-2:]), weight.to(x.dtype), eps)
    return out.view(x.shape)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """As models.kernels.rotate; the kernel takes [tokens, heads, D]."""
    batch, heads, length, dim = x.shape
    tokens = x.transpose(1, 2).reshape(-1, heads, dim)
    angles = (each.reshape(-1, 1, dim) for each in (cosine, sine))
    out: Tensor = apply_rotary_pos_emb(tokens, *angles, None, 0, RotaryPosEmbeddingMode.BLOCKWISE)
    return out.view(batch, length, heads, dim).transpose(1, 2)


def experts(hidden: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """As models.kernels.experts."""
    ops: Any = torch.ops.hpu
    gates, ups = gate_up.chunk(2, dim=1)
    out: Tensor = ops.mixture_of_experts(
        hidden_states=hidden,
        expert_routing_table=index,
        router_weights=weights.to(hidden.dtype),
        w1=list(gates.unbind()),
        w2=list(ups.unbind()),
        w3=list(down.unbind()),
        permuted_weights=True,
        activation="silu",
        experts_min=0,
        experts_max=len(down) - 1,
    )
    return out


KERNELS = Kernels(attention, rms_norm, rotate, experts)


class HpuGraphs(Strategy):
    """HPU Graphs: what one records reads and writes the same memory in every replay.

    To fill a buffer is one more lazy operation, and a replay flushes them first. Habana's runtime pins nothing.
    """

    def capture(self, function: Function, inputs: Mapping[str, Tensor]) -> Callable[[], Outputs]:
        """Record it; our own table says which graph is which, for Habana's leaves dtypes out of its key."""
        graph = hpu.HPUGraph()
        with hpu.graph(graph):
            outputs = function(**inputs)

        def replay() -> Outputs:
            graph.replay(asynchronous=False)
            return outputs

        return replay


class Copied:
    """A tensor on its way to the host; what is there before `result` means nothing."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.to("cpu", non_blocking=True)
        self._done = hpu.Event()
        self._done.record()

    def result(self) -> Tensor:
        """Wait for the copy, and for nothing that was asked for after it."""
        self._done.synchronize()
        return self._host


@contextmanager
def _compile_only() -> Iterator[None]:
    """KeyError where this software does not know the setting. Habana's own manager is not safe against errors."""
    from habana_frameworks.torch.internal import bridge_config

    setting = bridge_config.env_setting("PT_COMPILE_ONLY_MODE", True)
    setting.__enter__()
    try:
        yield
    finally:
        setting.__exit__(None, None, None)


@dataclass(frozen=True, slots=True)
class Hpu:
    """One card, as models.devices.device.Device asks."""

    lazy: bool
    machine: str
    name: str = "hpu"
    dtype: torch.dtype = torch.bfloat16
    kv_share: float = 0.9
    kv_most: int = 1 << 60
    layout: Layout = "flat"
    """Matrix products over the blocks in use."""
    block_size: int = 128
    """The side of a tile of the matrix engine."""
    prefill_chunk: int = 2048
    depth: int = 2
    warm_runs: int = 2
    """The first run of a recipe loads it."""
    ready_buckets: int = 16
    measured: bool = True
    kernels: Kernels = field(default=KERNELS, repr=False)

    @property
    def torch(self) -> torch.device:
        """The torch device: a process has one card."""
        return torch.device("hpu")

    def info(self) -> dict[str, str]:
        """The card, Habana's software, and the strategy."""
        return {
            "card": str(hpu.get_device_name()),
            "software": software(),
            "strategy": "HPU Graphs" if self.lazy else "torch.compile",
        }

    def memory(self) -> Memory:
        """Of the pool that the process has taken: nearly all of the card's."""
        free, total = hpu.mem_get_info()
        held, peak = hpu.memory_allocated(), hpu.max_memory_allocated()
        return Memory(int(free), int(total), int(held), int(peak))

    def strategy(self) -> Strategy:
        """HPU Graphs in lazy mode, where torch.compile is not to be had; torch.compile in the other, likewise."""
        return HpuGraphs() if self.lazy else Compiled(BACKEND)

    def adapt(self, model: nn.Module, plain: Container[str]) -> None:
        """As it is."""
        model.to(self.torch)
        self.synchronize()

    def fetch(self, tensor: Tensor) -> Copied:
        """On the stream that computes: the next replay waits until the copy has read what it overwrites."""
        self.step_boundary()
        return Copied(tensor)

    def step_boundary(self) -> None:
        """Lazy operations begin here."""
        if self.lazy:
            htcore.mark_step()

    def synchronize(self) -> None:
        """Wait for the card."""
        self.step_boundary()
        hpu.synchronize()

    def compile_only(self) -> AbstractContextManager[None] | None:
        """Not in lazy mode, nor with software that lacks it."""
        if self.lazy:
            return None
        try:
            with _compile_only():
                pass
        except KeyError:
            return None
        return _compile_only()

    def compilations(self) -> int:
        """Recipes that were compiled so far, and operations that the host had to run."""
        return sum(
            int(dict(metric_global(name).stats())["TotalNumber"])
            for name in ("graph_compilation", "cpu_fallback")
        )

    def seal(self) -> None:
        """For the whole process: it has one model."""
        if not self.lazy:
            torch.compiler.set_stance("fail_on_recompile")


def software() -> str:
    """The version of Habana's software; empty if it does not say."""
    try:
        return version(GAUDI_PLUGIN)
    except PackageNotFoundError:
        return ""


def open_card() -> Hpu:
    """Take the card that HLS_MODULE_ID names. RuntimeError if it cannot be had."""
    for name in PREPARE_INFERENCE:  # before any weight is moved
        if prepare := getattr(htcore, name, None):
            prepare()
            break
    torch.zeros(1, device="hpu")  # the card is taken at the first touch: fail here, with its own words
    return Hpu(htorch.utils.internal.is_lazy(), GENERATIONS.get(_get_device_type(), "gaudi2"))
