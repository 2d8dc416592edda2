"""Packed linear layers: the same products, in the processor's own order, and nothing left of the plain weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from models import mla
from models.packed import DTYPES, PackedLinear, available, pack
from tests.models.drive import Reference, drive, runner_of, sequence
from tests.models.test_exactness import prompts

Maker = Callable[[str], Path]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_it_multiplies_like_a_plain_one(dtype: torch.dtype, bias: bool) -> None:
    """The contract of torch's unnamed operations: rows of any number and shape, with a bias and without."""
    if not available(dtype):
        pytest.skip(f"this processor multiplies no {dtype}")
    torch.manual_seed(0)
    plain = nn.Linear(48, 80, bias=bias, dtype=dtype).requires_grad_(False)
    layer = PackedLinear(plain)
    assert (layer.weight.dtype, tuple(layer.weight.shape)) == (dtype, (80, 48))
    for shape in ((1, 48), (3, 48), (1, 17, 48), (32, 1, 48), (2, 5, 48)):
        x = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(
            layer(x), plain(x), rtol=2e-2 if dtype is torch.bfloat16 else 1e-4, atol=1e-2
        )


def test_all_but_those_named_are_packed_and_float64_is_left_alone() -> None:
    def model(dtype: torch.dtype) -> nn.ModuleDict:
        layers = {name: nn.Linear(16, 16, dtype=dtype) for name in ("a", "b", "kv_b_proj")}
        return nn.ModuleDict({"inner": nn.ModuleDict(layers), "head": nn.Linear(16, 4, dtype=dtype)})

    assert pack(model(torch.float64)) == 0
    packed = model(torch.float32)
    assert pack(packed, mla.PLAIN) == 3
    assert [name for name, _ in packed.named_parameters()] == [
        "inner.kv_b_proj.weight",
        "inner.kv_b_proj.bias",
    ]


@pytest.mark.parametrize("variant", ["llama", "gemma", "deepseek_v3"])
def test_a_float32_model_is_packed_and_says_nearly_what_it_said(variant: str, model_of: Maker) -> None:
    """Untied and tied heads, and a weight that is read: log-probabilities as far as float32 goes."""
    folder = model_of(variant)
    runner = runner_of(folder, dtype="float32")
    model = runner._parts.forward.model
    assert any(isinstance(each, PackedLinear) for each in model.modules())
    assert {name for name, each in model.named_modules() if type(each) is nn.Linear} == {
        name for name, _ in model.named_modules() if name.rpartition(".")[2] in mla.PLAIN
    }
    sequences = [sequence(prompt, 4) for prompt in prompts()[:4]]
    logprobs = drive(runner, sequences)
    reference = Reference(folder)
    for each in sequences:
        assert logprobs[each] == pytest.approx(reference.logprobs(each.prompt, each.output), abs=1e-3)
