"""The mode that was latched when the plugin was imported."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from ...stand_in import SETTINGS

_LOG = logging.getLogger(__name__)


def is_lazy() -> bool:
    """Whether operations are gathered until `mark_step`."""
    return SETTINGS.lazy


def lazy_only(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call itself in lazy mode; else one that does nothing and says so once."""
    if SETTINGS.lazy:
        return call
    warn = functools.cache(
        functools.partial(_LOG.warning, "%s is for lazy mode only: it does nothing", call.__name__)
    )

    @functools.wraps(call)
    def nothing(*args: Any, **kwargs: Any) -> None:
        warn()

    return nothing
