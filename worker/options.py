"""The engine's command line: written by the launcher, read by the engine, from one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields

from models.step import LoadSpec

_READ: dict[str, Callable[[str], object]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text == "True",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an engine is told at birth."""

    link_fd: int
    """Its end of the socket pair."""
    beat_fd: int
    """The shared page of its heartbeat."""
    parent: int
    """The parent's process id, to notice that it died before the engine could ask to die with it."""
    patience: float
    """Seconds of silence after which it counts as hung, at least."""
    spec: LoadSpec


def arguments(options: Options) -> list[str]:
    """The options as arguments; without the hub's token, which every user of the machine could read there."""
    spec = [f"{_flag(f.name)}={getattr(options.spec, f.name)}" for f in _spec_fields()]
    return [
        f"--link-fd={options.link_fd}",
        f"--beat-fd={options.beat_fd}",
        f"--parent={options.parent}",
        f"--patience={options.patience}",
        *spec,
    ]


def parse(argv: Sequence[str] | None = None) -> Options:
    """The options out of `argv`, by default the process's own."""
    parser = argparse.ArgumentParser(prog="python -m worker.engine", description="Started by a worker only.")
    for name in ("link-fd", "beat-fd", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--patience", type=float, required=True)
    for spec_field in _spec_fields():
        parser.add_argument(_flag(spec_field.name), type=_READ[str(spec_field.type)], required=True)
    given = vars(parser.parse_args(argv))
    spec = LoadSpec(**{spec_field.name: given.pop(spec_field.name) for spec_field in _spec_fields()})
    return Options(**given, spec=spec)


def _spec_fields() -> list[Field[object]]:
    return [spec_field for spec_field in fields(LoadSpec) if spec_field.name != "token"]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
