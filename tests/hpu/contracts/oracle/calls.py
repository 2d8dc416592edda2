"""What our engine and optimum-habana's own models call of Habana's kernels, operation by operation, and what it gives.

Its models are put in the place of transformers' for the whole process, so ours run first. On the stand-in both sides
get the same arithmetic: what is compared is names, arguments and the numbers in them, not Habana's kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from models import forward
from models.load import load
from models.step import LoadSpec, Row
from tests.models.drive import quiet
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # of optimum-habana and what it imports there are many

IDS = (5, 9, 17, 33, 64, 128, 200, 7)
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mixtral": {"sliding_window": None},  # optimum-habana's has none
    "qwen3_moe": {"mlp_only_layers": []},  # nor layers without experts
    "deepseek_v3": {"rope_scaling": None},
}
FLASH = {
    "use_flash_attention": True,
    "flash_attention_recompute": True,
    "flash_attention_fast_softmax": True,
}


def close(mine: Tensor, other: Tensor, relative: float = 1e-4) -> bool:
    """Whether they differ by no more than the order of float32's sums."""
    return torch.allclose(mine, other, rtol=relative, atol=relative / 10)


@dataclass(frozen=True)
class Call:
    """One operation of `torch.ops.hpu`."""

    name: str
    given: dict[str, Any]
    """What the caller said, by the schema's names."""
    whole: dict[str, Any]
    """With the defaults."""
    out: Any


class Calls(TorchDispatchMode):
    """All of them, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.seen: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "hpu":
            names = [each.name for each in func._schema.arguments]
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            defaults = {each.name: each.default_value for each in func._schema.arguments}
            self.seen.append(Call(func.name(), host(given), host(defaults | given), host(out)))
        return out


def host(value: Any) -> Any:
    """It as it is now, on the host."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {name: host(each) for name, each in value.items()}
    return [host(each) for each in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Sides:
    """One model's calls, and the logits after its last token."""

    ours: list[Call]
    theirs: list[Call]
    our_logits: Tensor
    their_logits: Tensor

    def pairs(self, name: str) -> Iterator[tuple[Call, Call]]:
        """The calls of that operation by both, of which there must be as many."""
        ours, theirs = ([each for each in calls if each.name == name] for calls in (self.ours, self.theirs))
        assert ours
        yield from zip(ours, theirs, strict=True)


def ours_of(folder: Path) -> tuple[list[Call], Tensor]:
    """A prefill by our engine, its program called as it is."""
    spec = LoadSpec(
        model_id=str(folder), device="hpu", dtype="float32", slots=1, max_total_tokens=64, kv_blocks=9,
        block_size=16, layout="flat",
    )  # fmt: skip
    runner = load(spec, quiet)
    bucket = runner.whole.prefill(len(IDS), 1)
    row = Row(slot=0, ids=IDS, start=0, blocks=(1,), sample=True, position=0)
    inputs = forward.inputs_of((row,), bucket, runner.whole.limits)
    on_card = {name: value.to("hpu") for name, value in inputs.items()}
    with torch.inference_mode(), Calls() as calls:
        logits, *_ = runner._parts.forward.planned(bucket)(**on_card)
    return calls.seen, logits[0].cpu()


def theirs_of(variant: str, folder: Path) -> tuple[list[Call], Tensor]:
    """The same tokens through optimum-habana's own class."""
    kind: Any = AutoModelForCausalLM
    if variant == "deepseek_v3":  # the registry keeps transformers' own
        kind = import_module("optimum.habana.transformers.models").DeepseekV3ForCausalLM
    # eager: its Mixtral would otherwise pass no mask, and expect `generate` to.
    model = kind.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager")
    model = model.eval().to("hpu")
    ids = torch.tensor([IDS]).to("hpu")
    more = FLASH if variant in ("llama", "qwen3_moe") else {}
    positions = torch.arange(len(IDS)).to("hpu")[None]
    with torch.inference_mode(), Calls() as calls:
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, **more)
    return calls.seen, out.logits[0, -1].cpu()


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sides]:
    """Of every model."""
    folders = {name: tiny.make(tmp_path_factory.mktemp(name), name, **more) for name, more in MODELS.items()}
    ours = {name: ours_of(folder) for name, folder in folders.items()}
    from optimum.habana.transformers.modeling_utils import adapt_transformers_to_gaudi

    adapt_transformers_to_gaudi()
    theirs = {name: theirs_of(name, folder) for name, folder in folders.items()}
    return {name: Sides(ours[name][0], theirs[name][0], ours[name][1], theirs[name][1]) for name in MODELS}


WHOLE = ("llama", "mixtral", "qwen3_moe")
"""Models whose attention is transformers' own on our side too."""
EXPERTS = ("mixtral", "qwen3_moe", "deepseek_v3")


@pytest.mark.parametrize("name", MODELS)
def test_both_give_the_same_logits(sides: dict[str, Sides], name: str) -> None:
    assert close(sides[name].our_logits, sides[name].their_logits, 1e-3)


@pytest.mark.parametrize("name", WHOLE)
def test_both_call_the_same_operations_in_the_same_order(sides: dict[str, Sides], name: str) -> None:
    assert [each.name for each in sides[name].ours] == [each.name for each in sides[name].theirs]


@pytest.mark.parametrize("name", WHOLE)
def test_norms_have_the_same_weight_epsilon_and_numbers(sides: dict[str, Sides], name: str) -> None:
    for ours, theirs in sides[name].pairs("hpu::rms_norm"):
        assert ours.given.keys() == theirs.given.keys()
        assert ours.whole["epsilon"] == theirs.whole["epsilon"]
        assert torch.equal(ours.whole["gamma"], theirs.whole["gamma"])
        for mine, other in ((ours.whole["data_in"], theirs.whole["data_in"]), (ours.out[0], theirs.out[0])):
            theirs_flat = other.reshape(-1, other.shape[-1])
            mine_flat = mine.reshape(-1, mine.shape[-1])[: len(theirs_flat)]
            assert close(mine_flat, theirs_flat)


@pytest.mark.parametrize("name", WHOLE)
def test_rotations_have_the_same_mode_sine_and_cosine(sides: dict[str, Sides], name: str) -> None:
    """Theirs by position ids of a table [S, D] and heads before tokens, ours gathered and tokens before heads."""
    for ours, theirs in sides[name].pairs("hpu::rotary_pos_embedding"):
        for same in ("offset", "mode"):
            assert ours.whole[same] == theirs.whole[same]
        for table in ("sin", "cos"):
            rows = theirs.whole[table].flatten(0, -2)[theirs.whole["position_ids"][0]]
            assert close(ours.whole[table][: len(IDS), 0], rows)
        for mine, other in ((ours.whole["input"], theirs.whole["input"]), (ours.out, theirs.out)):
            assert close(mine[: len(IDS)], other[0].transpose(0, 1))


@pytest.mark.parametrize("name", WHOLE)
def test_attentions_have_the_same_scale_mode_and_numbers(sides: dict[str, Sides], name: str) -> None:
    for ours, theirs in sides[name].pairs("hpu::sdpa_recomp_fwd"):
        width = ours.whole["q"].shape[-1]
        assert ours.whole["scale"] == pytest.approx(theirs.whole["scale"] or width**-0.5)
        assert ours.whole["is_causal"] is theirs.whole["is_causal"] is False
        assert ours.whole["dropout_p"] == theirs.whole["dropout_p"] == 0
        assert ours.whole["valid_seq_len"] is theirs.whole["valid_seq_len"] is None
        if name != "mixtral":  # there nobody can ask it for the fast softmax
            assert ours.whole["softmax_mode"] == theirs.whole["softmax_mode"] == "fast"
        for part in ("q", "k", "v"):
            mine = ours.whole[part][:, :, : len(IDS)]
            assert close(mine, theirs.whole[part])
        assert close(ours.out[0][:, :, : len(IDS)], theirs.out[0])


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_have_the_same_arguments_weights_and_routing(sides: dict[str, Sides], name: str) -> None:
    """Gate, up and down in the kernel's order, which is not that of Mixtral's names."""
    for ours, theirs in sides[name].pairs("hpu::mixture_of_experts"):
        assert ours.given.keys() == theirs.given.keys()
        for same in ("permuted_weights", "activation", "experts_min", "experts_max"):
            assert ours.given[same] == theirs.given[same]
        for weights in ("w1", "w2", "w3"):
            for mine, other in zip(ours.given[weights], theirs.given[weights], strict=True):
                assert torch.equal(mine, other)
        tables = [
            torch.zeros(len(IDS), len(ours.given["w1"])).scatter_add(
                1,
                each.given["expert_routing_table"][: len(IDS)].long(),
                each.given["router_weights"][: len(IDS)],
            )
            for each in (ours, theirs)
        ]
        assert close(tables[0], tables[1])
        assert ours.given["router_weights"].dtype == theirs.given["router_weights"].dtype
        assert close(ours.given["hidden_states"][: len(IDS)], theirs.given["hidden_states"])
        assert close(ours.out[: len(IDS)], theirs.out)
