"""Models with random weights that are never written to a file, and several users of the same weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from models.devices import Device
from models.hub import Files
from models.load import runner_of
from models.runner import PagedRunner
from models.step import LoadSpec

DTYPE = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"


def random_model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A fresh model, its weights drawn where they stay."""
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    with device:
        model = auto.from_config(config, **{DTYPE: dtype})
    return model.eval().requires_grad_(False)


def twin(model: Any) -> Any:
    """A model of its own, which can be adopted or compiled, over the same weights."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def engine(model: Any, device: Device, **limits: Any) -> PagedRunner:
    """A warm runner over the model's weights; the model stays as it is."""
    if device.name == "cuda":
        # What a step takes is told by the peak, and others have computed in this process.
        torch.cuda.reset_peak_memory_stats()
    spec = LoadSpec(model_id="random", **limits)
    runner = runner_of(twin(model), spec, Files(Path(), ""), device)
    runner.warm_up(lambda *progress: None)
    return runner
