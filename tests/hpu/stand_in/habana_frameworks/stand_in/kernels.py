"""The operations that do not compute: they make the card's memory, look at it, or move numbers to and from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .capture import CAPTURING
from .card import SEAT
from .dispatch import check_int64, made, made_for, operate, ready, run, sync
from .ledger import LEDGER
from .memory import MEMORY, address, as_is, is_card, on_host
from .recipes import GATHERING
from .streams import TIME

KEY = "PrivateUse1"
LOOKING = ("as_strided", "view", "_reshape_alias", "unfold")
"""They give views; torch makes all others of them."""
WHOLE = ("constant_pad_nd", "embedding", "logsumexp", "repeat", "scaled_dot_product_attention")
"""What torch would take apart for a device that does not have them, into steps that no card would take."""

aten: Any = torch.ops.aten


def empty(
    size: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    """As torch.empty."""
    SEAT.touch()
    return made(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Tensor:
    """As torch.empty_strided."""
    SEAT.touch()
    return made(torch.empty_strided(size, stride, dtype=dtype))


def resize_(card: Tensor, size: Sequence[int], *, memory_format: torch.memory_format | None = None) -> Tensor:
    """New memory: what was in it is lost, which nobody may rely on anyway."""
    if tuple(card.shape) != tuple(size):
        made_for(card, torch.empty(size, dtype=card.dtype))
    return card


def copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    """All copies with the card on one side or on both."""
    ready()
    if not is_card(source):
        _copy_in(source, to)
    elif is_card(to):
        run(aten.copy_.default, aten.copy_.default, (to, source), {})
    elif non_blocking:
        _copy_out_later(source, to)
    else:
        sync("copy to the host")
        TIME.launch((address(source),), ())
        TIME.wait_for_current()
        to.copy_(on_host(source))
    return to


def _copy_in(source: Tensor, to: Tensor) -> None:
    CAPTURING.forbid("a copy from the host")
    check_int64(source)
    TIME.launch((), (address(to),))
    on_host(to).copy_(source)


def _copy_out_later(source: Tensor, to: Tensor) -> None:
    CAPTURING.forbid("a copy to the host")
    if address(source) in GATHERING.lazy.written:
        raise RuntimeError("what is copied to the host was not launched yet: call mark_step before")
    LEDGER.copies_out += 1
    TIME.copy_out(on_host(source).to(to.dtype, copy=True), address(source), to)


def to_copy(
    source: Tensor,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    """As Tensor.to with copy: torch's own would copy to the host through pinned memory."""
    kept = torch.preserve_format if memory_format is None else memory_format
    out = torch.empty_like(
        source, dtype=dtype or source.dtype, device=device or source.device, memory_format=kept
    )
    return out.copy_(source, non_blocking=non_blocking)


def local_scalar(card: Tensor) -> Any:
    """The number of a tensor that has one."""
    ready()
    sync("item")
    return on_host(card).item()


def unsafe_view(card: Tensor, size: Sequence[int]) -> Tensor:
    """The last step of a product whose other form nobody keeps: the view is the tensor from then on."""
    out: Tensor = as_is(aten.view.default, card, size)
    MEMORY.rebase(out)
    return out


def _whole(op: Any) -> Any:
    def compute(*args: Any, **kwargs: Any) -> Any:
        return operate(op, *args, **kwargs)

    return compute


def _view(op: Any) -> Any:
    def look(*args: Any) -> Any:
        return as_is(op, *args)

    return look


def register() -> tuple[torch.library.Library, ...]:
    """Give all operations to the card; the libraries must live as long as the registrations."""
    every = torch.library.Library("_", "IMPL")
    every.fallback(operate, KEY)
    own = torch.library.Library("aten", "IMPL")
    for name, kernel in {
        "empty.memory_format": empty,
        "empty_strided": empty_strided,
        "resize_": resize_,
        "_copy_from": copy_from,
        "_to_copy": to_copy,
        "_local_scalar_dense": local_scalar,
        "_unsafe_view": unsafe_view,
        **{name: _view(getattr(aten, name).default) for name in LOOKING},
        **{name: _whole(getattr(aten, name).default) for name in WHOLE},
    }.items():
        own.impl(name, kernel, KEY)
    return every, own
