"""`htcore`: the step of lazy mode, and the inference environment, whose names differ by release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...stand_in.disk import DISK
from ...stand_in.dispatch import flush
from ...stand_in.memory import MEMORY
from ...stand_in.settings import LAST_LAZY, SETTINGS, check_latch
from ..utils.internal import lazy_only

_closures: list[Callable[[], Any]] = []
_entered = False


@lazy_only
def mark_step(device_str: str = "", sync: bool = False) -> None:
    """Launch what was gathered; `sync` waits for the host's part of it alone."""
    check_latch()
    flush()
    while _closures:
        _closures.pop(0)()


@lazy_only
def iter_mark_step(device_str: str = "") -> None:
    """As `mark_step`."""
    mark_step(device_str)


@lazy_only
def add_step_closure(closure: Callable[..., Any], args: Sequence[Any] = ()) -> None:
    """Call it after the next step."""
    _closures.append(lambda: closure(*args))


def _enter(model: Any = None) -> None:
    """RuntimeError if it is set for the first time and there is something on the card already."""
    global _entered
    DISK.inference = True
    if MEMORY.in_use and not _entered:
        raise RuntimeError("the inference environment must be set before the model is moved to hpu")
    _entered = True


def _initialize(
    model: Any = None, mark_only_scales_as_const: bool = False, optimizer: Any = None, args: Any = None
) -> None:
    """RuntimeError if the model is not on the card yet."""
    if model is not None and any(each.device.type != "hpu" for each in model.parameters()):
        raise RuntimeError("the model must be on hpu before the inference is initialised")


def _leave() -> None:
    """Nothing is left to do."""


if SETTINGS.release <= LAST_LAZY:
    hpu_set_inference_env = hpu_set_env = _enter
    hpu_inference_initialize = hpu_initialize = _initialize
    hpu_teardown_inference_env = hpu_reset_env = _leave
else:
    hpu_inference_set_env = _enter
    hpu_inference_initialize = hpu_initialize = _initialize
