"""The forwards that are ours compile as one graph each: nothing in them asks the host, and nothing is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import forward
from models.load import load
from models.plan import LAYOUTS
from models.step import LoadSpec, Row
from tests.models.drive import quiet

OURS = ("mixtral", "gpt_oss", "falcon-40b", "deepseek_v2", "deepseek_v3", "phi3-longrope")
"""Static experts, sinks, an attention of our own, latents, and a settled RoPE."""

CHUNK = Row(slot=0, ids=tuple(range(5, 25)), start=0, blocks=(1, 2), sample=True, position=0)
TOKEN = Row(slot=0, ids=(), start=20, blocks=(1, 2), sample=True, position=1)


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", OURS)
def test_each_phase_is_one_graph_with_the_same_logits(
    variant: str, layout: str, model_of: Callable[[str], Path]
) -> None:
    spec = LoadSpec(
        model_id=str(model_of(variant)),
        dtype="float64",
        slots=2,
        max_total_tokens=64,
        kv_blocks=17,
        layout=layout,
    )
    runner = load(spec, quiet)
    for bucket, row in ((runner.plan.prefill(20, 2), CHUNK), (runner.plan.decode(1, 2), TOKEN)):
        inputs = forward.inputs_of((row,), bucket, runner.plan.limits)
        function = runner._parts.forward.planned(bucket)
        torch.compiler.reset()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)
        with torch.inference_mode():
            (expected,), (got,) = function(**inputs), compiled(**inputs)
        assert torch.equal(got[0], expected[0])
