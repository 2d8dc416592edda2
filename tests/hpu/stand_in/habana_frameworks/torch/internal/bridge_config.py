"""Flags that may be set while the process runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ...stand_in.recipes import COMPILER

_NAME = "PT_COMPILE_ONLY_MODE"
COMPILER.compile_only = os.environ.get(_NAME, "0") in ("1", "true")


def get_pt_compile_only_mode() -> bool:
    """Whether recipes are compiled and not launched."""
    return COMPILER.compile_only


def set_pt_compile_only_mode(value: bool) -> None:
    """Compile without launching from now on, or launch again."""
    COMPILER.compile_only = value


@contextmanager
def env_setting(name: str, value: bool) -> Iterator[None]:
    """The flag has that value within; KeyError for one that there is not. An exception leaves it set."""
    get, set_ = {_NAME: (get_pt_compile_only_mode, set_pt_compile_only_mode)}[name]
    before = get()
    set_(value)
    yield
    set_(before)
