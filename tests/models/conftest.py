"""Without torch there is nothing to test here."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models gain nothing from more threads, and on a busy machine they lose much."""
    import torch

    torch.set_num_threads(1)
