"""DeepSeek's latent cache: one compressed latent and one rotated key per token, however many heads read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from models import mla
from models.cache import LayerShape
from models.families import TRANSFORMERS
from models.load import load
from models.step import LoadSpec
from tests.models.drive import drive, quiet, runner_of, sequence
from tests.support import tiny

LATENT, ROTATED = 32, 8
"""Of the tiny models."""


def spied(form: Callable[..., Tensor], lengths: set[int]) -> Callable[..., Tensor]:
    """The form, noting how many tokens it is called for."""

    def noting(module: Any, plain: Tensor, *rest: Tensor) -> Tensor:
        lengths.add(plain.shape[2])
        return form(module, plain, *rest)

    return noting


@pytest.mark.parametrize("variant", ["deepseek_v2", "deepseek_v3"])
def test_a_layer_keeps_the_latent_and_the_rotated_key_alone(
    variant: str, model_of: Callable[[str], Path]
) -> None:
    runner = load(LoadSpec(model_id=str(model_of(variant)), slots=1, dtype="float32"), quiet)
    pools = runner._parts.pools
    assert list(pools.layers.values()) == [LayerShape(1, LATENT + ROTATED, 0)] * 2
    assert pools.bytes_per_block(16) == 2 * 16 * (LATENT + ROTATED) * 4
    buffers = dict(runner._parts.forward.model.named_buffers())
    assert [name for name in buffers if name.endswith("v_cache")] == []
    assert len([name for name in buffers if name.endswith("k_cache")]) == 2


@pytest.mark.parametrize("variant", ["deepseek_v2", "deepseek_v3", "deepseek_v3-halves"])
def test_scores_are_scaled_as_transformers_scales_them(variant: str, model_of: Callable[[str], Path]) -> None:
    model = load(LoadSpec(model_id=str(model_of(variant)), slots=1), quiet)._parts.forward.model
    scale = mla.softmax_scale(model.config)
    theirs = model.model.layers[0].self_attn.scaling
    if variant == "deepseek_v2" and TRANSFORMERS < 5:
        assert theirs == pytest.approx((16 + 8) ** -0.5)  # it forgets YaRN
        assert scale > theirs
    else:
        assert scale == pytest.approx(theirs, rel=1e-15)


def test_long_steps_give_every_head_its_own_keys_and_no_other_answer(
    model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(model_of("deepseek_v3"), slots=1, prefill_chunk=64)
    seen: dict[str, set[int]] = {"_absorbed": set(), "_expanded": set()}
    for name, lengths in seen.items():
        monkeypatch.setattr(mla, name, spied(getattr(mla, name), lengths))
    sequences = [sequence(range(3, 3 + length), 3) for length in (10, 60)]
    drive(runner, sequences)
    assert {1, 16} <= seen["_absorbed"] and seen["_expanded"] == {64}
    monkeypatch.setattr(mla, "_worth_expanding", lambda module, tokens: False)
    again = [sequence(each.prompt, 3) for each in sequences]
    seen["_expanded"].clear()
    drive(runner, again)
    assert seen["_expanded"] == set()
    assert [each.output for each in again] == [each.output for each in sequences]


def test_without_yarn_the_scale_is_that_of_the_head() -> None:
    assert mla.softmax_scale(tiny.config_of("deepseek_v3-halves")) == (16 + 8) ** -0.5
