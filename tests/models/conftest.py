"""Tiny models in folders. Without torch there is nothing to test here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]

Maker = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models gain nothing from more threads, and on a busy machine they lose much."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """The folder of a tiny model of that variant, made once."""
    from tests.support import tiny  # it imports torch

    made: dict[str, Path] = {}

    def make(variant: str) -> Path:
        if variant not in made:
            made[variant] = tiny.make(tmp_path_factory.mktemp(variant), variant)
        return made[variant]

    return make
