"""The Lua that runs inside Redis: `wire/lua/<name>.lua`, joined where several scripts share a snippet."""

from __future__ import annotations

from functools import cache
from importlib import resources

EVEN_IF_FULL, UNLESS_FULL = "#!lua flags=allow-oom\n", "#!lua\n"
"""First lines of scripts: whether a Redis that has reached `maxmemory` runs them.

`maxmemory` decides what is accepted, not what ends. Only what brings new work is refused, before its first line: the
ledger's submit and the queue's put. All else belongs to jobs that were accepted, and frees memory in the end, or is
small and bounded. (Without such a line Redis would refuse a script where it first writes, unless that is a delete.)
"""


@cache
def load(*names: str) -> str:
    """The text of wire/lua/<name>.lua for each name, in that order: shared snippets first, the script last."""
    folder = resources.files("wire") / "lua"
    return "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in names)
