"""What the runner asks of a device."""

from __future__ import annotations

from collections.abc import Container
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models import limits
from models.captured import Strategy
from models.kernels import Kernels


@dataclass(frozen=True, slots=True)
class Memory:
    """The device's, in bytes."""

    free: int
    """What can be allocated now."""
    total: int
    held: int
    """By this process."""
    peak: int
    """Most that it has held at once."""


class Fetched(Protocol):
    """A tensor on its way to the host."""

    def result(self) -> Tensor:
        """Wait for it."""


class Device(limits.Device, Protocol):
    """One device, the only one of its process. Everything but `Fetched.result` and `synchronize` returns at once."""

    @property
    def name(self) -> str:
        """cpu, cuda or hpu."""

    @property
    def machine(self) -> str:
        """Its row in models.cost.MACHINES."""

    @property
    def dtype(self) -> torch.dtype:
        """What a model is loaded in when nobody says."""

    @property
    def depth(self) -> int:
        """Steps in flight unless told otherwise."""

    @property
    def ready_buckets(self) -> int:
        """How many buckets are warmed up before jobs are taken unless told otherwise; 0: all."""

    @property
    def measured(self) -> bool:
        """Whether a trial says what is left for the KV pools; else a share of the free memory is theirs."""

    @property
    def warm_runs(self) -> int:
        """How often warm-up runs a program, the last time to see how long it takes."""

    @property
    def kernels(self) -> Kernels:
        """Its form of the fused operations."""

    @property
    def torch(self) -> torch.device:
        """Where tensors are put."""

    def info(self) -> dict[str, str]:
        """What it is and what drives it, for people."""

    def memory(self) -> Memory:
        """Now."""

    def strategy(self) -> Strategy:
        """How programs are captured here."""

    def adapt(self, model: nn.Module, plain: Container[str]) -> None:
        """Put the loaded model here, in the form that is fastest, all but the linear layers named `plain`."""

    def fetch(self, tensor: Tensor) -> Fetched:
        """Begin to copy a program's output to the host, before any later program writes over it."""

    def step_boundary(self) -> None:
        """What was asked for so far is one step: let it begin."""

    def synchronize(self) -> None:
        """Wait for all that was asked for."""

    def compile_only(self) -> AbstractContextManager[None] | None:
        """Within it programs are compiled and not run, their outputs garbage; None: they cannot be compiled alone."""

    def compilations(self) -> int:
        """What was compiled so far, or could not run on it: asked after every step, so it does not wait.

        A difference between two synchronized moments is exact.
        """

    def seal(self) -> None:
        """Warm-up is over: let a compilation be an error from now on, where it can be."""
