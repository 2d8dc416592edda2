"""Which Sagrada this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed version of Sagrada."""
    try:
        return metadata.version("sagrada")
    except metadata.PackageNotFoundError:  # run from the source tree
        return "unknown"
