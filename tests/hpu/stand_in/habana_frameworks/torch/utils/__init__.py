"""Helpers; `internal` is how everybody asks for the mode."""

from . import experimental as experimental
from . import internal as internal
