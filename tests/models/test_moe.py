"""Static experts compute what routing computes, for every token alone, and read nothing on the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import kernels, moe
from models.families import TRANSFORMERS
from models.load import load
from models.step import LoadSpec
from tests.models.drive import HostReads, quiet

EXPERTS, WIDTH, INNER, CHOSEN = 5, 12, 7, 2


class Experts(nn.Module):
    """Random experts as transformers 5 holds them: plain as Mixtral's, or transposed and with biases as GPT-OSS's."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        up, down = torch.randn(EXPERTS, 2 * INNER, WIDTH), torch.randn(EXPERTS, WIDTH, INNER)
        self.num_experts, self.is_transposed, self.has_bias = EXPERTS, transposed, transposed
        self.gate_up_proj = up.mT.contiguous() if transposed else up
        self.down_proj = down.mT.contiguous() if transposed else down
        self.gate_up_proj_bias = torch.randn(EXPERTS, 2 * INNER)
        self.down_proj_bias = torch.randn(EXPERTS, WIDTH)

    def _apply_gate(self, inner: Tensor) -> Tensor:
        gate, up = inner.chunk(2, dim=-1)
        return F.silu(gate) * up

    def one(self, expert: int, token: Tensor) -> Tensor:
        """What one expert makes of one token."""
        up, down = self.gate_up_proj[expert], self.down_proj[expert]
        if not self.is_transposed:
            up, down = up.T, down.T
        inner = token @ up
        offset: Tensor | int = 0
        if self.has_bias:
            inner, offset = inner + self.gate_up_proj_bias[expert], self.down_proj_bias[expert]
        return self._apply_gate(inner) @ down + offset


@pytest.fixture(autouse=True)
def _float64() -> Any:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def routed(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random hidden states, the experts chosen for each, and their weights."""
    index = torch.stack([torch.randperm(EXPERTS)[:CHOSEN] for _ in range(tokens)])
    return torch.randn(tokens, WIDTH), index, torch.rand(tokens, CHOSEN)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [1, 18, 1000])
def test_a_token_gets_the_weighted_sum_of_its_experts(
    transposed: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One expert at a time, two, or all at once."""
    monkeypatch.setattr(kernels, "ROWS", rows)
    experts = Experts(transposed=transposed)
    hidden, index, weights = routed(9)
    out = moe.dense_experts(experts, hidden, index, weights)
    for token, chosen, shares, got in zip(hidden, index, weights, out, strict=True):
        expected = sum(
            share * experts.one(int(expert), token) for expert, share in zip(chosen, shares, strict=True)
        )
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_padding_changes_no_other_token() -> None:
    experts = Experts(transposed=False)
    hidden, index, weights = routed(9)
    alone = moe.dense_experts(experts, hidden[:3], index[:3], weights[:3])
    padded = moe.dense_experts(experts, hidden, index, weights)
    torch.testing.assert_close(padded[:3], alone, rtol=0, atol=1e-12)


def test_an_expert_that_overflows_disturbs_no_token_but_its_own() -> None:
    experts = Experts(transposed=False)
    experts.down_proj[2] = torch.inf
    hidden, _, weights = routed(2)
    out = moe.dense_experts(experts, hidden, torch.tensor([[0, 1], [1, 2]]), weights)
    assert out[0].isfinite().all()
    assert not out[1].isfinite().any()


def test_a_narrow_dtype_stays_narrow() -> None:
    """Routers weigh in float32 whatever the model's dtype."""
    experts = Experts(transposed=False).to(torch.bfloat16)
    hidden, index, weights = routed(4)
    experts.gate_up_proj, experts.down_proj = experts.gate_up_proj.bfloat16(), experts.down_proj.bfloat16()
    out = moe.dense_experts(experts, hidden.bfloat16(), index, weights.float())
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize("variant", ["mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss"])
def test_a_served_model_reads_nothing_on_the_host(variant: str, model_of: Callable[[str], Path]) -> None:
    model = load(LoadSpec(model_id=str(model_of(variant)), slots=1), quiet)._parts.forward.model
    hidden = torch.randn(1, 6, model.config.hidden_size, dtype=torch.float32)
    blocks = [m for name, m in model.named_modules() if name.endswith(("mlp", "block_sparse_moe"))]
    mixtures = [block for block in blocks if hasattr(block, "experts")]
    assert mixtures
    with torch.inference_mode(), HostReads() as reads:
        for block in mixtures:
            block(hidden)
    assert reads.seen == []


@pytest.mark.skipif(TRANSFORMERS >= 5, reason="transformers 5 stacks experts itself")
@pytest.mark.parametrize("variant", ["mixtral", "deepseek_v3"])
def test_stacked_experts_take_the_place_of_the_loose_ones(
    variant: str, model_of: Callable[[str], Path]
) -> None:
    runner = load(
        LoadSpec(model_id=str(model_of(variant)), dtype="float64", slots=1), quiet
    )  # packed layers own no parameters
    model = runner._parts.forward.model
    assert not [name for name, _ in model.named_parameters() if ".experts.0." in name]
    assert sum(w.numel() for w in model.parameters()) == runner.info.parameters
