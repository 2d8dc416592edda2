"""The Lua that runs inside Redis: `wire/lua/<name>.lua`, joined where several scripts share a snippet."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def load(*names: str) -> str:
    """The text of wire/lua/<name>.lua for each name, in that order: shared snippets first, the script last."""
    folder = resources.files("wire") / "lua"
    return "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in names)
