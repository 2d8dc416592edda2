"""transformers' own `generate` over a static cache, compiled where it compiles: on a card, by CUDA graphs."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import CompileConfig

from models.devices import Device

Prompts = list[list[int]]
"""All of one length."""


def shorter(new: int) -> int:
    """The shorter of the two lengths of output whose times tell a step's."""
    return new // 4


class StaticGenerate:
    """A model that decodes with `cache_implementation="static"` and `torch.compile(mode="reduce-overhead")`."""

    def __init__(self, model: Any, device: Device) -> None:
        self._model, self._device = model, device
        self.compiles = device.name != "cpu"
        """transformers compiles for accelerators alone."""

    def warm_up(self, prompts: Prompts, new: int) -> float:
        """Forget what was compiled for other shapes, and compile for these; seconds that it took."""
        torch.compiler.reset()
        for kept in ("_cache", "_previous_max_cache_length"):  # of the last call, by transformers 4 and by 5
            self._model.__dict__.pop(kept, None)
        return self.seconds(prompts, new)

    def step(self, prompts: Prompts, new: int) -> float:
        """Seconds of one decode step: the time of two lengths of output, less their common beginning, per token."""
        short = shorter(new)
        return (self.seconds(prompts, new) - self.seconds(prompts, short)) / (new - short)

    def seconds(self, prompts: Prompts, new: int) -> float:
        """Of one whole call."""
        ids = torch.tensor(prompts, device=self._device.torch)
        settings: dict[str, Any] = {
            "max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
            "cache_implementation": "static",
        }  # fmt: skip
        if self.compiles:
            settings["compile_config"] = CompileConfig(mode="reduce-overhead", dynamic=False)
        self._device.synchronize()
        began = time.perf_counter()
        self._model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        self._device.synchronize()
        return time.perf_counter() - began
