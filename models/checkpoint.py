"""What a model's files say of its shape, without torch and without reading weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from models.cost import ModelShape, UnknownShape, shape_of
from models.demo import WEIGHTS
from models.errors import ModelRefused

LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors header beyond which the file is none."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as its files describe it."""

    shape: ModelShape
    max_position: int
    """Most tokens of prompt and output together that it was built for."""
    exact: bool
    """Whether its parameters were counted in the files; else they are estimated from config.json."""


def read_checkpoint(model_id: str, dtype_bytes: int = 0) -> Checkpoint:
    """The model of a folder, of a name in the hub's cache or on the hub, or `demo`; ModelRefused."""
    folder = WEIGHTS if model_id == "demo" else Path(model_id).expanduser()
    if not folder.is_dir():
        folder = _fetched(model_id)
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ModelRefused(f"the config.json of {model_id!r} cannot be read: {error}") from error
    config = config.get("text_config", config) if isinstance(config, dict) else {}
    parameters = sum(_parameters(path) for path in sorted(folder.glob("*.safetensors")))
    try:
        shape = shape_of(config, parameters, dtype_bytes)
    except UnknownShape as error:
        raise ModelRefused(f"{model_id!r} cannot be planned for: {error}") from error
    positions = next((config[n] for n in ("max_position_embeddings", "n_positions") if n in config), 0)
    return Checkpoint(shape, int(positions), parameters > 0)


def _fetched(model_id: str) -> Path:
    """The folder of the hub's cache with its config.json, which alone is fetched if it is not there."""
    from huggingface_hub import hf_hub_download  # takes half a second to import, and a folder does without

    try:
        return Path(hf_hub_download(model_id, "config.json")).parent
    except (OSError, ValueError) as error:
        raise ModelRefused(
            f"there is no folder {model_id!r}, and the hub gives no config.json for that name: "
            + " ".join(str(error).split())
        ) from error


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    return sum(prod(shape) for shape in _shapes(path))


def _shapes(path: Path) -> Iterator[list[int]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: Any = None
        if length <= LONGEST_HEADER:
            try:
                header = json.loads(file.read(length))
            except ValueError:
                header = None
    if not isinstance(header, dict):
        raise ModelRefused(f"{path} is not a safetensors file: its header cannot be read")
    for name, tensor in header.items():
        if name != "__metadata__":
            yield tensor["shape"]
