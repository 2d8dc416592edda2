"""`torch.hpu`. What Habana's has not, this has not either: there is no empty_cache, and synchronize takes no device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...stand_in import card
from ...stand_in.capture import CAPTURING
from ...stand_in.ledger import LEDGER
from ...stand_in.memory import MEMORY
from ...stand_in.settings import SETTINGS
from ...stand_in.streams import TIME
from ...stand_in.streams import Event as Event
from ...stand_in.streams import Stream as Stream
from . import metrics as metrics
from . import random as random
from .random import manual_seed as manual_seed
from .random import manual_seed_all as manual_seed_all

if SETTINGS.lazy:
    from .graphs import HPUGraph as HPUGraph
    from .graphs import ModuleCacher as ModuleCacher
    from .graphs import graph as graph
    from .graphs import wrap_in_hpu_graph as wrap_in_hpu_graph
    from .graphs import wrap_in_hpu_graph_func as wrap_in_hpu_graph_func

_dynamic_shape = False


def init() -> None:
    """Take the card."""
    card.SEAT.touch()


def is_initialized() -> bool:
    """Whether a card was taken."""
    return card.SEAT.module >= 0


def is_available() -> bool:
    """Whether there is a card of a kind that this release supports."""
    return SETTINGS.cards > 0 and SETTINGS.device_type != "gaudi"


def device_count() -> int:
    """The cards that this process may take."""
    return len(card.visible()) if is_available() else 0


def current_device() -> int:
    """Always 0: a process has one card."""
    return 0


def set_device(device: Any) -> None:
    """RuntimeError for any device but the one."""
    if torch.device(device if isinstance(device, (str, torch.device)) else f"hpu:{device}").index not in (
        0,
        None,
    ):
        raise RuntimeError("a process has one card: its index is 0")


@contextmanager
def device(device: Any) -> Iterator[None]:
    """On that device, which is the one."""
    set_device(device)
    yield


def get_device_name(device: Any = None) -> str:
    """As the driver gives it."""
    return SETTINGS.device_type.upper()


def get_device_capability(device: Any = None) -> str:
    """A string, unlike CUDA's."""
    return ".".join(map(str, SETTINGS.release))


def get_device_properties(device: Any = None) -> str:
    """A string, unlike CUDA's."""
    return f"(sramBaseAddress=0, dramSize={SETTINGS.memory}, deviceType={SETTINGS.device_type})"


def is_bf16_supported() -> bool:
    """Every Gaudi does."""
    return True


def synchronize() -> None:
    """Wait for all that was launched; what lazy mode has gathered was not."""
    init()
    CAPTURING.forbid("synchronize")
    LEDGER.synced("hpu.synchronize")
    TIME.wait_for_all()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Bytes of the pool: (free, all)."""
    init()
    return MEMORY.limit - MEMORY.in_use, MEMORY.limit


def memory_stats(device: Any = None) -> dict[str, int]:
    """What the pool counts."""
    return MEMORY.stats()


def memory_allocated(device: Any = None) -> int:
    """Bytes in use."""
    return MEMORY.in_use


def max_memory_allocated(device: Any = None) -> int:
    """Most bytes that were in use."""
    return MEMORY.most_in_use


def memory_reserved(device: Any = None) -> int:
    """The whole pool: a process takes it all."""
    return MEMORY.limit


def reset_peak_memory_stats(device: Any = None) -> None:
    """The most in use is what is now."""
    MEMORY.reset_peak()


def reset_accumulated_memory_stats(device: Any = None) -> None:
    """Count allocations from 0."""
    MEMORY.reset_accumulated()


def current_stream(device: Any = None) -> Stream:
    """Where work goes."""
    return TIME.current


def default_stream(device: Any = None) -> Stream:
    """Where work goes unless told otherwise."""
    return TIME.default


def set_stream(stream: Stream) -> None:
    """Work goes there from now on."""
    TIME.current = stream


@contextmanager
def stream(stream: Stream) -> Iterator[None]:
    """Work goes there within it."""
    with TIME.on(stream):
        yield


def enable_dynamic_shape() -> None:
    """Let recipes be of ranges of shapes; nothing here is."""
    global _dynamic_shape
    _dynamic_shape = True


def disable_dynamic_shape() -> None:
    """Recipes of one shape each."""
    global _dynamic_shape
    _dynamic_shape = False


def get_dynamic_shape_status() -> bool:
    """Whether they are enabled."""
    return _dynamic_shape


@contextmanager
def sdp_kernel(enable_recompute: bool = True) -> Iterator[None]:
    """What FusedSDPA does if it is not told: it is the same number either way."""
    yield


def _is_in_bad_fork() -> bool:
    return card.SEAT.inherited


def get_amp_supported_dtype() -> list[torch.dtype]:
    """What autocast may be of, for torch."""
    return [torch.bfloat16]
