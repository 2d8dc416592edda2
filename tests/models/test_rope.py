"""RoPE scalings that would follow the batch are settled at load: exact where they are served, and no further."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.load import load
from models.step import LoadSpec
from tests.models.drive import HostReads, Reference, drive, quiet, runner_of, sequence
from tests.support import tiny

Maker = Callable[[str], Path]
TRAINED = 128
"""Tokens that the tiny longrope model was trained for, of 512 that it stretches to."""


def prompts(*lengths: int) -> list[list[int]]:
    chance = random.Random(2)
    return [[chance.randrange(3, tiny.VOCAB) for _ in range(length)] for length in lengths]


def test_longrope_is_served_to_its_trained_length_unless_more_is_wanted(model_of: Maker) -> None:
    folder = str(model_of("phi3-longrope"))
    assert load(LoadSpec(model_id=folder, slots=1), quiet).info.max_position == TRAINED
    longer = LoadSpec(model_id=folder, slots=1, max_total_tokens=256)
    assert load(longer, quiet).info.max_position == 512


def test_long_sequences_get_the_long_factors_whoever_is_beside_them(model_of: Maker) -> None:
    folder = model_of("phi3-longrope")
    runner = runner_of(folder, max_total_tokens=256, kv_blocks=65)
    sequences = [sequence(prompt, 8) for prompt in prompts(200, 5, 150)]
    drive(runner, sequences)
    reference = Reference(folder)
    for each in (sequences[0], sequences[2]):
        assert each.output == reference.greedy(each.prompt, 8)
    short = sequence(sequences[1].prompt, 8)
    drive(runner, [short])
    assert short.output == sequences[1].output


def test_dynamic_ntk_is_plain_rope_to_the_trained_length(model_of: Maker) -> None:
    model = load(LoadSpec(model_id=str(model_of("llama-dynamic-rope")), slots=1), quiet)._parts.forward.model
    rotary = model.model.rotary_emb
    before = rotary.inv_freq.clone()
    with torch.inference_mode():
        rotary(torch.zeros(1, 1, 64), torch.tensor([[10_000]]))
    assert torch.equal(rotary.inv_freq, before)


@pytest.mark.parametrize("variant", ["llama-dynamic-rope", "phi3-longrope"])
def test_a_rotation_reads_nothing_on_the_host(variant: str, model_of: Maker) -> None:
    model = load(LoadSpec(model_id=str(model_of(variant)), slots=1), quiet)._parts.forward.model
    with torch.inference_mode(), HostReads() as reads:
        model.model.rotary_emb(torch.zeros(1, 1, 64), torch.tensor([[1, 200, 3]]))
    assert reads.seen == []
