"""12: Habana's kernels compute what their arguments say, and refuse what the card refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from habana_frameworks.stand_in import SETTINGS
from habana_frameworks.torch.hpex.kernels import (
    FusedSDPA,
    RotaryPosEmbeddingHelperV1,
    RotaryPosEmbeddingHelperV2,
    RotaryPosEmbeddingMode,
    apply_rotary_pos_emb,
)
from habana_frameworks.torch.hpex.normalization import FusedRMSNorm
from torch import Tensor

ops: Any = torch.ops.hpu
sdpa: Callable[..., Tensor] = FusedSDPA.apply
NEW = SETTINGS.release > (1, 22)


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def card(*each: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.to("hpu") for x in each)


class TestAttention:
    q, k, v = numbers(2, 4, 6, 8), numbers(2, 2, 6, 8), numbers(2, 2, 6, 8)

    def expected(self, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        k, v = (each.repeat_interleave(2, 1) for each in (self.k, self.v))
        return F.scaled_dot_product_attention(self.q, k, v, attn_mask=mask, is_causal=causal)

    @pytest.mark.parametrize("mode", ["None", "fast", "fp32"])
    def test_query_heads_share_key_heads(self, mode: str) -> None:
        out = sdpa(*card(self.q, self.k, self.v), None, 0.0, True, None, mode)
        assert torch.allclose(out.cpu(), self.expected(causal=True))

    def test_a_mask_is_added_and_a_truth_hides(self) -> None:
        hide = torch.rand(2, 1, 6, 6) > 0.7
        hide[..., 0] = False
        mask = torch.zeros(2, 1, 6, 6, dtype=torch.float64).masked_fill(hide, -torch.inf)
        for each in (mask, ~hide):
            out = sdpa(*card(self.q, self.k, self.v), each.to("hpu"))
            assert torch.allclose(out.cpu(), self.expected(mask))

    @pytest.mark.parametrize("padding", ["left", "right"])
    def test_lengths_hide_the_padding(self, padding: str) -> None:
        lengths = torch.tensor([4, 6])
        args = (None, 0.0, True, None, "fast", True, lengths.to("hpu"), padding)
        out = sdpa(*card(self.q, self.k, self.v), *args).cpu()
        part = slice(0, 4) if padding == "right" else slice(2, 6)
        k, v = (each[0, :, part].repeat_interleave(2, 0) for each in (self.k, self.v))
        expected = F.scaled_dot_product_attention(self.q[0, :, part], k, v, is_causal=True)
        assert torch.allclose(out[0, :, part], expected)
        assert torch.allclose(out[1], self.expected(causal=True)[1])

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            ((torch.zeros(1, 1, 6, 6), 0.0, True), "causal with a mask"),
            ((None, 0.1), "dropout"),
            ((None, 0.0, False, None, "slow"), "softmax_mode"),
            ((None, 0.0, False, None, "fast", True, torch.tensor([4, 6])), "needs is_causal"),
            ((None, 0.0, True, None, "fast", True, torch.tensor([4])), "one length per row"),
            ((None, 0.0, True, None, "fast", True, None, "both"), "seq_padding_type"),
            ((torch.zeros(6, 6),), "another shape"),
        ],
    )
    def test_what_it_refuses(self, args: tuple[Any, ...], sentence: str) -> None:
        there = (each.to("hpu") if isinstance(each, Tensor) else each for each in args)
        with pytest.raises(RuntimeError, match=sentence):
            sdpa(*card(self.q, self.k, self.v), *there)

    def test_query_heads_are_a_multiple_of_key_heads(self) -> None:
        with pytest.raises(RuntimeError, match="no multiple"):
            sdpa(*card(self.q, numbers(2, 3, 6, 8), numbers(2, 3, 6, 8)))

    def test_the_number_of_arguments_is_the_releases(self) -> None:
        thirteen = (None, 0.0, True, None, "None", None, None, "left", False, False)
        there = card(self.q, self.k, self.v)
        sdpa(*there, *thirteen)
        if not NEW:
            with pytest.raises(TypeError):
                sdpa(*there, *thirteen, (-1, -1))
            return
        assert torch.equal(sdpa(*there, *thirteen, (-1, -1), None).cpu(), sdpa(*there, *thirteen).cpu())
        near = torch.ones(6, 6, dtype=torch.bool).tril().triu(-2)
        assert torch.allclose(sdpa(*there, *thirteen, (2, 0), None).cpu(), self.expected(near))
        sunk = sdpa(*there, *thirteen, (-1, -1), torch.full((4,), 1e3, dtype=torch.float64).to("hpu"))
        assert torch.allclose(sunk.cpu(), torch.zeros(2, 4, 6, 8, dtype=torch.float64))
        with pytest.raises(TypeError):
            sdpa(*there, *thirteen, (-1, -1), None, None)


class TestNorm:
    def test_it_is_rms_norm(self) -> None:
        x, gamma = numbers(3, 5, 8), numbers(8)
        out = FusedRMSNorm.apply(*card(x, gamma), 1e-6)
        assert torch.allclose(out.cpu(), F.rms_norm(x, (8,), gamma, 1e-6), atol=1e-6)
        low = FusedRMSNorm.apply(*card(x.bfloat16(), gamma.bfloat16()), 1e-6, False, 0, True)
        assert low.dtype is torch.bfloat16

    def test_both_have_one_dtype(self) -> None:
        with pytest.raises(RuntimeError, match="one dtype"):
            FusedRMSNorm.apply(*card(numbers(3, 8).bfloat16(), numbers(8).float()), 1e-6)

    def test_the_host_does_not_have_it(self) -> None:
        with pytest.raises(NotImplementedError):
            FusedRMSNorm.apply(numbers(3, 8), numbers(8), 1e-6)


class TestRotation:
    angles = torch.arange(7, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])

    def turned(self, p: Tensor, rows: Tensor, neighbours: bool = False) -> Tensor:
        """By complex numbers, rows being each token's position."""
        pairs = p.unflatten(-1, (-1, 2)) if neighbours else p.unflatten(-1, (2, -1)).transpose(-1, -2)
        z = (
            torch.view_as_complex(pairs.contiguous())
            * torch.polar(torch.ones_like(self.angles), self.angles)[rows]
        )
        back = torch.view_as_real(z)
        return back.flatten(-2) if neighbours else back.transpose(-1, -2).flatten(-2)

    def test_halves_by_position_ids_of_a_table(self) -> None:
        p, ids = numbers(2, 3, 4, 8), torch.tensor([[0, 1, 2, 3], [3, 6, 5, 0]])
        wide = torch.cat((self.angles, self.angles), -1)
        there = card(p, wide.cos()[None, None], wide.sin()[None, None], ids)
        expected = torch.stack([self.turned(p[row], ids[row]) for row in range(2)])
        assert torch.allclose(apply_rotary_pos_emb(*there).cpu(), expected)
        assert torch.allclose(RotaryPosEmbeddingHelperV2.apply(*there).cpu(), expected)

    def test_gathered_tables_broadcast(self) -> None:
        p, rows = numbers(5, 3, 8), torch.tensor([4, 4, 0, 6, 1])  # tokens, heads, D
        wide = torch.cat((self.angles, self.angles), -1)[rows][:, None]
        expected = torch.stack([self.turned(p[i], rows[i]) for i in range(5)])
        assert torch.allclose(apply_rotary_pos_emb(*card(p, wide.cos(), wide.sin())).cpu(), expected)

    def test_neighbours(self) -> None:
        p, wide = numbers(2, 4, 8), self.angles.repeat_interleave(2, -1)
        out = apply_rotary_pos_emb(*card(p, wide.cos(), wide.sin()), None, 2, RotaryPosEmbeddingMode.PAIRWISE)
        assert torch.allclose(out.cpu(), self.turned(p, torch.arange(2, 6), neighbours=True))

    def test_an_offset_is_the_first_row(self) -> None:
        p, wide = numbers(2, 4, 8), torch.cat((self.angles, self.angles), -1)
        out = RotaryPosEmbeddingHelperV1.apply(*card(p, wide.cos(), wide.sin()), 3)
        assert torch.allclose(out.cpu(), self.turned(p, torch.arange(3, 7)))

    def test_sine_comes_before_cosine_in_the_op(self) -> None:
        p, wide = numbers(2, 4, 8), torch.cat((self.angles, self.angles), -1)
        p, cos, sin = card(p, wide.cos(), wide.sin())
        assert torch.equal(
            ops.rotary_pos_embedding(p, sin, cos, None, 0, 0).cpu(), apply_rotary_pos_emb(p, cos, sin).cpu()
        )

    def test_tables_are_as_wide_as_what_they_turn(self) -> None:
        with pytest.raises(RuntimeError, match="last dimension"):
            apply_rotary_pos_emb(*card(numbers(2, 4, 8), self.angles.cos(), self.angles.sin()))

    def test_gathered_tables_have_no_position_ids(self) -> None:
        wide = torch.cat((self.angles, self.angles), -1)[None].expand(2, -1, -1)
        with pytest.raises(RuntimeError, match="tables are"):
            apply_rotary_pos_emb(*card(numbers(2, 3, 4, 8), wide.cos(), wide.sin(), torch.zeros(2, 4).long()))


class TestExperts:
    hidden, weights = numbers(5, 8), torch.rand(5, 2, dtype=torch.float64)
    routing = torch.tensor([[0, 1], [2, 0], [1, 2], [2, 1], [0, 2]])
    gate, up, down = (
        [numbers(4, 8) for _ in range(3)],
        [numbers(4, 8) for _ in range(3)],
        [numbers(8, 4) for _ in range(3)],
    )

    def expected(self) -> Tensor:
        out = torch.zeros_like(self.hidden)
        for token, (ids, weights) in enumerate(zip(self.routing, self.weights, strict=True)):
            for expert, weight in zip(ids, weights, strict=True):
                x = self.hidden[token]
                inner = F.silu(self.gate[expert] @ x) * (self.up[expert] @ x)
                out[token] += weight * (self.down[expert] @ inner)
        return out

    def call(self, **changed: Any) -> Tensor:
        given: dict[str, Any] = {
            "hidden_states": self.hidden, "expert_routing_table": self.routing, "router_weights": self.weights,
            "w1": self.gate, "w2": self.up, "w3": self.down, "permuted_weights": True, "activation": "silu",
            "experts_min": 0, "experts_max": 2,
        } | changed  # fmt: skip
        there = {name: self.there(each) for name, each in given.items() if each is not None}
        out: Tensor = ops.mixture_of_experts(**there)
        return out

    def there(self, each: Any) -> Any:
        if isinstance(each, Tensor):
            return each.to("hpu")
        return list(map(self.there, each)) if isinstance(each, list) else each

    def test_gate_up_and_down_in_that_order(self) -> None:
        assert torch.allclose(self.call().cpu(), self.expected())
        assert not torch.allclose(self.call(w1=self.up, w2=self.gate).cpu(), self.expected())

    def test_gate_and_up_in_one(self) -> None:
        both = [torch.cat(pair) for pair in zip(self.gate, self.up, strict=True)]
        assert torch.allclose(self.call(w1=None, w2=None, w12=both).cpu(), self.expected())

    def test_weights_may_be_the_other_way_round(self) -> None:
        turned = {
            name: [each.t().contiguous() for each in own]
            for name, own in (("w1", self.gate), ("w2", self.up), ("w3", self.down))
        }
        assert torch.allclose(self.call(permuted_weights=False, **turned).cpu(), self.expected())

    def test_the_last_expert_is_included(self) -> None:
        with pytest.raises(RuntimeError, match="last expert"):
            self.call(experts_max=3)

    @pytest.mark.parametrize(
        ("changed", "sentence"),
        [
            ({"activation": "relu"}, "activation"),
            ({"router_weights": weights.float()}, "dtype"),
            ({"hidden_states": hidden[None]}, r"\[T, H\]"),
            ({"expert_routing_table": routing[:, :1]}, "tables"),
        ],
    )
    def test_what_it_refuses(self, changed: dict[str, Any], sentence: str) -> None:
        with pytest.raises(RuntimeError, match=sentence):
            self.call(**changed)

    def test_unknown_arguments_and_wrong_types_are_refused_by_the_schema(self) -> None:
        with pytest.raises(RuntimeError):
            self.call(ep_size=1)
        with pytest.raises(RuntimeError):
            ops.mixture_of_experts(self.hidden.to("hpu"), 0, 2, "silu")

    def test_chunks_are_of_the_new_release(self) -> None:
        if NEW:
            assert torch.allclose(self.call(chunk_size=64, total_experts=3).cpu(), self.expected())
        else:
            with pytest.raises(RuntimeError):
                self.call(chunk_size=64)


class TestFp8:
    def test_gaudi_2_ends_at_240(self) -> None:
        out, amax = ops.cast_to_fp8_v2(
            torch.tensor([1.0, 300.0, -1e4]).to("hpu"), None, False, True, torch.float8_e4m3fn
        )
        assert out.float().tolist() == [1, 240, -240] and amax.item() == 1e4

    @pytest.mark.parametrize("scale", [2.0, [2.0], torch.tensor(2.0)])
    def test_a_scale_multiplies(self, scale: Any) -> None:
        scale = scale.to("hpu") if isinstance(scale, Tensor) else scale
        x = torch.tensor([1.5, 4.0]).to("hpu")
        assert ops.cast_to_fp8_v2(x, scale, False, False, torch.float8_e4m3fn)[0].float().tolist() == [3, 8]

    def test_a_product_divides_by_it_again(self) -> None:
        a, b = torch.randint(-4, 5, (3, 4)).float(), torch.randint(-4, 5, (5, 4)).float()
        low_a, low_b = (
            ops.cast_to_fp8_v2(x.to("hpu"), 2.0, False, False, torch.float8_e4m3fn)[0] for x in (a, b)
        )
        half = torch.tensor(0.5).to("hpu")
        out = ops.fp8_gemm_v2(low_a, False, low_b, True, None, torch.float32, half, half, None, False)
        assert torch.equal(out.cpu(), a @ b.t())
        bias, onto = torch.ones(5), torch.full((3, 5), 2.0)
        out = ops.fp8_gemm_v2(
            low_a, False, low_b, True, onto.to("hpu"), torch.float32, half, half, bias.to("hpu"), True
        )
        assert torch.equal(out.cpu(), a @ b.t() + 3)

    def test_numbers_that_the_device_reads_otherwise_are_an_error(self) -> None:
        big = torch.full((2, 2), 448.0).to(torch.float8_e4m3fn).to("hpu")
        with pytest.raises(RuntimeError, match="beyond 240"):
            ops.fp8_gemm_v2(big, False, big, True, None, torch.float32)
        with pytest.raises(RuntimeError, match="beyond 240"):
            ops.cast_from_fp8(big, None, torch.float32)

    def test_back(self) -> None:
        low = ops.cast_to_fp8_v2(torch.tensor([3.0]).to("hpu"), 2.0, False, False, torch.float8_e4m3fn)[0]
        assert ops.cast_from_fp8(low, torch.tensor(0.5).to("hpu"), torch.bfloat16).tolist() == [3]
