"""Collectives: the backend "hccl", whose numbers travel by gloo."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from ....stand_in.dispatch import collect

_Kernel = Callable[..., Any]
_c10d: Any = torch._C._distributed_c10d


def initialize_distributed_hpu(
    world_size: int | None = None, rank: int | None = None, local_rank: int | None = None
) -> tuple[int, int, int]:
    """(world size, rank, local rank) by the arguments or the launcher's environment; names the module to take, too."""
    size = _first(world_size, "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", 1)
    own = _first(rank, "RANK", "OMPI_COMM_WORLD_RANK", 0)
    local = _first(local_rank, "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", own)
    if size > 1:
        visible = os.environ.get("HABANA_VISIBLE_MODULES", "")
        os.environ["HLS_MODULE_ID"] = visible.split(",")[local] if visible else str(local)
        os.environ["ID"] = str(own)
    return size, own, local


def _first(given: int | None, name: str, by_mpi: str, default: int) -> int:
    return given if given is not None else int(os.environ.get(name, os.environ.get(by_mpi, default)))


class _Hccl(dist.ProcessGroup):
    """A group of cards."""

    def __init__(self, rank: int, size: int, gloo: Any) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]  # its stub is behind its code
        self._gloo = gloo

    def getBackendName(self) -> str:
        """What it is called."""
        return "hccl"

    def _run(self, name: str, call: _Kernel, written: list[Tensor], read: list[Tensor]) -> Any:
        def kernel(written: list[Tensor], read: list[Tensor]) -> None:
            call(written, read).wait()

        collect(f"hccl::{name}", kernel, written, read)
        future: Future[list[Tensor]] = Future()
        future.set_result(written)
        return _c10d._create_work_from_future(future)

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Any:  # type: ignore[override]  # the stub has overloads
        """The sum, or what `opts` says, everywhere."""
        opts = opts or dist.AllreduceOptions()
        return self._run("allreduce", lambda to, _: self._gloo.allreduce(to, opts), tensors, [])

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Any:  # type: ignore[override]  # the stub has overloads
        """One rank's, everywhere."""
        opts = opts or dist.BroadcastOptions()
        return self._run("broadcast", lambda to, _: self._gloo.broadcast(to, opts), tensors, [])

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> Any:
        """All ranks' one after another: the concatenation."""
        if output.dim() != input.dim():
            raise RuntimeError(
                "all_gather_into_tensor gives a concatenation: the output has the input's dimensions"
            )
        return self._run("allgather", self._gather, [output], [input])

    _allgather_base = all_gather_single  # its name until torch 2.12

    def _gather(self, written: list[Tensor], read: list[Tensor]) -> Any:
        return self._gloo.allgather([list(written[0].chunk(self.size()))], read)

    def allgather(  # type: ignore[override]  # the stub has overloads
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> Any:
        """All ranks', in a list."""
        return self._run("allgather", lambda to, of: self._gloo.allgather([to], of), outputs[0], inputs)

    def barrier(self, opts: Any = None) -> Any:
        """Everybody is here."""
        return self._gloo.barrier()


def _create(options: Any, more: Any) -> _Hccl:
    gloo = _c10d.ProcessGroupGloo(options.store, options.group_rank, options.group_size, options.timeout)
    group = _Hccl(options.group_rank, options.group_size, gloo)
    # A group keeps its name, by which a compiled graph finds it, in a backend of its own.
    group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, gloo)
    return group


dist.Backend.register_backend("hccl", _create, extended_api=True, devices=["hpu"])
initialize_distributed_hpu()
