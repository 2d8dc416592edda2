"""The plain kernels compute what transformers' layers do, and adoption puts others wherever that is so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama as llama

from models import adoption, forward, kernels
from models.captured import Compiled, Programs
from models.devices import Cpu
from models.kernels import PLAIN, Kernels
from models.load import load
from models.step import LoadSpec, Row
from tests.models.drive import Driver, quiet, runner_of, sequence

PROMPT = tuple(range(5, 25))


class Counted:
    """The plain kernels, with a count of their calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.kernels = Kernels(**{name: self._counted(name) for name in Kernels.__slots__})

    def _counted(self, name: str) -> Any:
        plain = getattr(PLAIN, name)

        def call(*args: Tensor) -> Any:
            self.calls[name] += 1
            return plain(*args)

        return call


def test_the_norm_is_llamas() -> None:
    norm = llama.LlamaRMSNorm(64).bfloat16()
    norm.weight.data.normal_()
    x = torch.randn(2, 3, 64).bfloat16()
    assert torch.equal(kernels.rms_norm(x, norm.weight, norm.variance_epsilon), norm(x))


def test_the_rotation_is_llamas() -> None:
    q, k = torch.randn(2, 4, 7, 16), torch.randn(2, 2, 7, 16)
    angles = torch.randn(2, 7, 8).repeat(1, 1, 2)
    expected = llama.apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    for x, turned in zip((q, k), expected, strict=True):
        assert torch.equal(kernels.rotate(x, angles.cos(), angles.sin()), turned)


def test_attention_shares_heads_as_transformers_does() -> None:
    q, k, v = torch.randn(1, 6, 5, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 4)
    mask = torch.where(torch.rand(1, 1, 5, 9) < 0.5, 0.0, -torch.inf)
    mask[..., 0] = 0
    k3, v3 = (each.repeat_interleave(3, dim=1) for each in (k, v))
    expected = ((q @ k3.transpose(2, 3)) * 0.3 + mask).softmax(-1) @ v3
    assert torch.allclose(kernels.attention(q, k, v, mask, 0.3), expected, atol=1e-6)


def test_experts_are_the_weighted_sum_of_those_that_were_chosen() -> None:
    hidden, gate_up, down = torch.randn(5, 8), torch.randn(4, 12, 8), torch.randn(4, 8, 6)
    weights, index = torch.rand(5, 4).topk(2)
    expected = torch.zeros(5, 8)
    for token in range(5):
        for weight, expert in zip(weights[token], index[token], strict=True):
            gate, up = (gate_up[expert] @ hidden[token]).chunk(2)
            expected[token] += weight * (down[expert] @ (torch.nn.functional.silu(gate) * up))
    assert torch.allclose(kernels.experts(hidden, index, weights, gate_up, down), expected, atol=1e-5)


ADOPTED = {
    # (norms, rotations, experts) of two layers; the model has one norm more
    "llama": (5, 2, 0),
    "qwen3": (9, 2, 0),
    "mixtral": (5, 2, 2),
    "qwen3_moe": (9, 2, 1),
    "deepseek_v3": (9, 0, 1),  # its rotation is our own
    "gemma2": (0, 2, 0),  # its norm adds 1 to its weight, in float32
    "gpt_oss": (
        0,
        0,
        0,
    ),  # its norm multiplies before it rounds, its rotation is another, its experts have biases
    "gpt2": (0, 0, 0),
}


@pytest.mark.parametrize("variant", ADOPTED)
def test_what_is_adopted_of_a_family(variant: str, model_of: Callable[[str], Path]) -> None:
    runner = load(LoadSpec(model_id=str(model_of(variant)), dtype="float64", slots=1), quiet)
    model = runner._parts.forward.model
    taken = adoption.adopt(model, Counted().kernels)
    assert (taken["rms_norm"], taken["rotate"], taken["experts"]) == ADOPTED[variant]


@pytest.mark.parametrize("variant", ["llama", "mixtral", "qwen3_moe", "deepseek_v3", "phi", "gpt_oss"])
def test_adopted_kernels_are_called_and_change_no_text(
    variant: str, model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    expected, got = sequence(PROMPT, 12), sequence(PROMPT, 12)
    Driver(runner_of(model_of(variant))).run([expected])
    monkeypatch.setattr("models.load.device_of", lambda name: Cpu(kernels=counted.kernels))
    runner = runner_of(model_of(variant))
    counted.calls.clear()
    Driver(runner).run([got])
    assert got.output == expected.output
    assert counted.calls["attention"] == 2 * (
        variant != "gpt_oss"
    )  # one prefill; no fused attention has sinks
    assert bool(counted.calls["experts"]) == (variant in ("mixtral", "qwen3_moe", "deepseek_v3"))
    assert bool(counted.calls["rms_norm"]) == (variant not in ("phi", "gpt_oss"))


@pytest.mark.parametrize("variant", ["llama", "mixtral"])
def test_an_adopted_model_is_one_graph(
    variant: str, model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dynamo looks the names of a copied forward up in its own globals, not in transformers' module."""
    counted = Counted()
    monkeypatch.setattr("models.load.device_of", lambda name: Cpu(kernels=counted.kernels))
    spec = LoadSpec(model_id=str(model_of(variant)), dtype="float64", slots=1, max_total_tokens=64)
    runner = load(spec, quiet)
    bucket = runner.plan.prefill(20, 2)
    row = Row(slot=0, ids=PROMPT, start=0, blocks=(1, 2), sample=True, position=0)
    inputs = forward.inputs_of((row,), bucket, runner.plan.limits)
    function = runner._parts.forward.planned(bucket)
    programs: Programs[str] = Programs(Compiled("aot_eager"))
    programs.build("prefill", function, {name: value.clone() for name, value in inputs.items()})
    with torch.inference_mode():
        counted.calls.clear()
        (logits,) = programs["prefill"].run(**inputs)
        traced = dict(counted.calls)
        assert torch.equal(logits, function(**inputs)[0])
    assert traced["rms_norm"] == 5 and traced["rotate"] == 4 and traced["attention"] == 2
