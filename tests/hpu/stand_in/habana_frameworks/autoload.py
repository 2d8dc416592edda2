"""What torch calls at the end of its own import, by the entry point `torch.backends`."""

import os


def __autoload() -> None:
    """Import the plugin, unless it is lazy mode's turn or somebody says no."""
    from .stand_in import SETTINGS

    wish = os.environ.get("PT_HPU_AUTOLOAD", "0" if SETTINGS.lazy else "1")
    if wish != "0":
        from . import torch  # noqa: F401
