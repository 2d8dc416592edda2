"""The card's random numbers, which here are the host's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def manual_seed(seed: int) -> None:
    """Seed the card's generator."""
    torch.default_generator.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all cards, which is one."""
    manual_seed(seed)


def get_rng_state(device: Any = "hpu") -> Tensor:
    """The generator's state."""
    return torch.default_generator.get_state()


def set_rng_state(new_state: Tensor, device: Any = "hpu") -> None:
    """Put the generator into that state."""
    torch.default_generator.set_state(new_state)
