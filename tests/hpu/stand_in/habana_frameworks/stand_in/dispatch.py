"""Every operation on the card goes through here: checked, computed by the host's kernel, written down.

torch's own key for a device of one's own (PrivateUse1), renamed to "hpu", has a fallback for all operations; what only
looks at memory, makes it or moves it has a kernel of its own. The numbers are the CPU's to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from . import metrics
from .capture import CAPTURING, Kept, tensors
from .card import SEAT
from .ledger import LEDGER
from .memory import MEMORY, address, as_is, is_card, on_host
from .recipes import COMPILER, GATHERING, Graph, Saved
from .schema import Signature, argument, numbered, signature_of
from .settings import SETTINGS, check_latch
from .streams import TIME, poison

DYNAMIC = frozenset(
    {
        "aten::_unique", "aten::_unique2", "aten::bincount", "aten::histc", "aten::masked_select", "aten::nonzero",
        "aten::repeat_interleave.Tensor", "aten::unique_consecutive", "aten::unique_dim",
    }
)  # fmt: skip
"""The shape of their results is in their operands' values: no recipe can hold them, the CPU takes them over."""
WAITING = frozenset({"aten::equal", "aten::is_nonzero"})
"""They give the host a number."""

_INT32 = torch.iinfo(torch.int32)


def flush() -> None:
    """Launch what is gathered; within a capture, begin another recipe."""
    if CAPTURING.tape is not None:
        CAPTURING.tape.split()
    else:
        GATHERING.flush()


def operate(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run one operation of the card."""
    return run(op, op, args, kwargs)


def run(op: Any, kernel: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run `kernel`, which computes what `op` says, on the host's view of the arguments."""
    signature = signature_of(op)
    if signature.looks:
        return as_is(op, *args, **kwargs)
    SEAT.touch()
    _check_kind(op)
    written = [argument(where, args, kwargs) for where in signature.writes]
    _check_views(op, written)
    host_args, host_kwargs = numbered(signature, to_host(args)), to_host(kwargs)
    growing = _grow(signature, args, kwargs, host_kwargs)
    alone = _save(written)
    given = kernel(*host_args, **host_kwargs)
    for card, host in growing:
        made_for(card, host)
    fresh = [] if signature.writes else tensors(given)
    _check_numbers([*fresh, *(on_host(each) for each in tensors(written))])
    result = _returned(signature, given, args, kwargs)
    _note(op, Kept(kernel, host_args, host_kwargs, fresh), (args, kwargs), result, written)
    if alone is not None:
        alone.restore()
        for each in [*fresh, *_outputs(signature, args, kwargs)]:
            garble(each)
    return result


def _outputs(signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """What is output and nothing else, as the host sees it: torch passes the result of an update in place as both."""
    used = {address(each) for each in _cards([args, [kwargs[n] for n in kwargs if n not in signature.outs]])}
    for name in signature.outs:
        card = argument(name, args, kwargs)
        if is_card(card) and address(card) not in used:
            yield on_host(card)


def ready() -> None:
    """RuntimeError if the process has no card, or has changed its mind about it."""
    SEAT.touch()
    SEAT.check_binding()
    check_latch()


def _check_kind(op: Any) -> None:
    name = op.name().removesuffix(".out")
    if name in DYNAMIC:
        fall_back(name)
    elif name in WAITING:
        sync(name)


def fall_back(name: str) -> None:
    """An operation that the card leaves to the CPU: its operands travel there and its result back."""
    CAPTURING.forbid(name)
    flush()
    metrics.record("cpu_fallback", name)
    LEDGER.fell_back(name)
    LEDGER.synced(name)


def sync(name: str) -> None:
    """The host asks for a number and waits."""
    CAPTURING.forbid(name)
    flush()
    LEDGER.synced(name)
    TIME.wait_for_current()


def _check_views(op: Any, written: list[Any]) -> None:
    if CAPTURING.tape is not None and any(MEMORY.is_view(each) for each in tensors(written)):
        CAPTURING.forbid(f"{op}: an update of a view in place")


def to_host(value: Any) -> Any:
    """The card's tensors as the host's; RuntimeError for a tensor of the host that is more than a number."""
    if isinstance(value, Tensor):
        if is_card(value):
            return on_host(value)
        if value.dim():
            raise RuntimeError(
                f"Expected all tensors to be on the same device, hpu:0, and one is on {value.device}"
            )
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(map(to_host, value))
    if isinstance(value, dict):
        return {name: to_host(each) for name, each in value.items()}
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _grow(
    signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], host: dict[str, Any]
) -> list[tuple[Tensor, Tensor]]:
    """Outputs that have no memory yet: the kernel makes it, the card's tensor gets it."""
    growing = []
    for name in signature.outs:
        card = argument(name, args, kwargs)
        if isinstance(name, str) and isinstance(card, Tensor) and not card.numel():
            host[name] = torch.empty_like(host[name])
            growing.append((card, host[name]))
    return growing


def _save(written: list[Any]) -> Saved | None:
    """Keep what is about to be overwritten and put back, for nothing is launched; the caller's to restore, or None."""
    tape, alone = CAPTURING.tape, Saved()
    if tape is not None:
        saved = tape.saved if tape.dry else None
    else:
        saved = (GATHERING.region or alone) if COMPILER.compile_only else None
    if saved is not None:
        for card in tensors(written):
            saved.keep(card)
    return alone if saved is alone else None


def garble(host: Tensor) -> None:
    """What a recipe gives that was not launched; integers stay such that they may be used as an index."""
    if host.dtype.is_floating_point:
        poison(host)
    else:
        host.zero_()


def _check_numbers(results: list[Tensor]) -> None:
    for each in results:
        if each.dtype.is_complex:
            raise RuntimeError("complex numbers are not supported on HPU")
        check_int64(each)


def check_int64(host: Tensor) -> None:
    """OverflowError for what the card's int64, an int32, would lose in silence."""
    if SETTINGS.wide or host.dtype is not torch.int64 or not host.numel():
        return
    low, high = host.aminmax()
    if low < _INT32.min or high > _INT32.max:
        raise OverflowError(
            "int64 is int32 on HPU (PT_ENABLE_INT64_SUPPORT is off), and a value does not fit"
        )


def _returned(signature: Signature, given: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if signature.returned and signature.returned[0] is not None:
        same = tuple(argument(where, args, kwargs) for where in signature.returned if where is not None)
        return same[0] if len(same) == 1 else same
    return to_card(given)


def to_card(value: Any) -> Any:
    """New tensors of the host as the card's."""
    if isinstance(value, Tensor):
        return made(value)
    return type(value)(map(to_card, value)) if isinstance(value, (list, tuple)) else value


def made(host: Tensor) -> Tensor:
    """A new tensor of the card; a graph that is being captured holds its memory."""
    if CAPTURING.tape is not None:
        CAPTURING.tape.made.append(host)
    return MEMORY.adopt(host)


def made_for(card: Tensor, host: Tensor) -> None:
    """The card's tensor, which had no memory, has a new one's."""
    if CAPTURING.tape is not None:
        CAPTURING.tape.made.append(host)
    MEMORY.give(card, host)


def collect(name: str, kernel: Callable[..., Any], written: list[Tensor], read: list[Tensor]) -> None:
    """Run a collective, whose numbers come from elsewhere; lazy mode captures none unless it is told to."""
    ready()
    if SETTINGS.lazy and not SETTINGS.lazy_collectives:
        CAPTURING.forbid(f"{name}, a collective that is not lazy (PT_HPU_ENABLE_LAZY_COLLECTIVES),")
    if not all(map(is_card, [*written, *read])):
        raise RuntimeError(f"{name} is for tensors on hpu")
    host = (to_host(written), to_host(read))
    kernel(*host)
    _note(name, Kept(kernel, host, {}, []), (written, read), (), written)


def _note(op: Any, kept: Kept, card: tuple[Any, ...], result: Any, written: list[Any]) -> None:
    """Write down what ran, wherever operations are gathered now."""
    writes = {address(each) for each in tensors([written, result])} - {0}
    reads = {address(each) for each in _cards(card)} - {0}
    if (tape := CAPTURING.tape) is not None:
        tape.keep(kept, reads, writes)
        tape.graph.add(str(op), card, result, writes)
        return
    TIME.launch(reads, writes)
    if GATHERING.region is not None:
        return
    graph = GATHERING.lazy if SETTINGS.lazy else Graph()
    graph.add(str(op), card, result, writes)
    if not SETTINGS.lazy:
        COMPILER.launch(graph.key, eager=True)


def _cards(value: Any) -> Iterator[Tensor]:
    if is_card(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _cards(each)
    elif isinstance(value, dict):
        yield from _cards(list(value.values()))
