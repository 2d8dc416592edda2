"""A torchvision whose library does not load, being built for CUDA, is of use too: optimum-habana imports it.

It describes operations of that library to torch without looking whether they are there. No model here calls one.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec


def bear() -> None:
    """Let it be imported, if it is there, and so all of transformers: to be called before anybody has tried."""
    if find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except RuntimeError:
        import torch

        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
