"""Recipes on disk: what one process has compiled is found by the next, in the folder of PT_HPU_RECIPE_CACHE_CONFIG."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable
from functools import cached_property
from pathlib import Path

from .settings import LAST_LAZY, SETTINGS

CONFIG = "PT_HPU_RECIPE_CACHE_CONFIG"
"""Folder, whether to empty it at the start, most MiB, and in newer releases whether it is on NFS."""
_SUFFIX = ".recipe"
_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


class Disk:
    """The folder, opened when the first recipe is looked for."""

    inference = False
    """Whether the inference environment was entered before: then the folder's name ends with the rank."""

    def has(self, key: Hashable) -> bool:
        """Whether a process with this software, on such a card, has compiled it."""
        return self._folder is not None and self._file(self._folder, key).exists()

    def keep(self, key: Hashable) -> None:
        """It was compiled."""
        if self._folder is not None:
            self._file(self._folder, key).touch()

    @cached_property
    def _folder(self) -> Path | None:
        """None: nothing is kept. RuntimeError for what this release cannot read."""
        said = os.environ.get(CONFIG, "")
        name, empty, size, nfs, *more = [*said.split(","), "", "", ""]
        most = 3 if SETTINGS.release <= LAST_LAZY else 4
        if said.count(",") >= most or any(more):
            raise RuntimeError(f"{CONFIG} has 1 to {most} fields, not {said!r}")
        if empty.lower() not in _FLAGS or nfs.lower() not in _FLAGS or not (size or "0").isdecimal():
            raise RuntimeError(f"{CONFIG} cannot be read: {said!r}")
        if not name:
            return None
        folder = Path(f"{name}{os.environ.get('RANK', '0')}" if self.inference else name)
        folder.mkdir(parents=True, exist_ok=True)
        for recipe in folder.glob(f"*{_SUFFIX}") if _FLAGS[empty.lower()] else ():
            recipe.unlink()
        return folder

    def _file(self, folder: Path, key: Hashable) -> Path:
        text = repr((SETTINGS.release, SETTINGS.device_type, key))
        return folder / (hashlib.blake2b(text.encode(), digest_size=16).hexdigest() + _SUFFIX)


DISK = Disk()
