"""Before anybody imports transformers: a torchvision whose library does not load, being built for CUDA, is of use too.

It describes two operations of that library to torch without looking whether they are there. optimum-habana imports it,
and none of the models here calls it.
"""

from __future__ import annotations

import torch

for _name in ("nms", "qnms"):
    torch.library.define(
        f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
