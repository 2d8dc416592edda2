from __future__ import annotations

import pytest

from models.cost import EIGHT_BILLION, MACHINES, CostModel, UnknownShape, shape_of

GAUDI_2 = CostModel(MACHINES["gaudi2"], EIGHT_BILLION)
CPU = CostModel(MACHINES["cpu"], EIGHT_BILLION)


def test_a_small_launch_waits_for_the_weights() -> None:
    weights = GAUDI_2.decode(1, 0) - MACHINES["gaudi2"].launch
    assert weights == pytest.approx(8.1e-3, rel=0.02), "16 GB at 1.97 TB/s"
    assert GAUDI_2.decode(8, 0) == pytest.approx(GAUDI_2.decode(1, 0), rel=0.01)


def test_a_large_launch_waits_for_the_arithmetic() -> None:
    assert GAUDI_2.prefill(2048, 2048) > 1.8 * GAUDI_2.prefill(1024, 1024) > 3 * GAUDI_2.prefill(1, 1)


def test_a_cpu_reads_and_multiplies_one_after_the_other() -> None:
    row = CPU.decode(2, 0) - CPU.decode(1, 0)
    assert row == pytest.approx(75e-3, rel=0.02), "15 GFLOP at 200 GFLOPS, however long the weights take"


def test_a_block_of_cache_costs_its_bytes() -> None:
    block = GAUDI_2.decode(4, 1280) - GAUDI_2.decode(4, 1152)
    assert block == pytest.approx(8.5e-6, rel=0.02), "16.8 MB"


def test_scoring_costs_more_than_prefill() -> None:
    assert GAUDI_2.score(256, 256) > GAUDI_2.prefill(256, 256)


def test_faster_machines_are_faster() -> None:
    by_speed = [
        CostModel(MACHINES[name], EIGHT_BILLION).prefill(512, 512)
        for name in ("cpu", "gaudi", "gaudi2", "gaudi3")
    ]
    assert by_speed == sorted(by_speed, reverse=True)


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({"multi_query": True}, 2 * 64),
        ({"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 4}, 2 * 4 * 64),
        ({"num_key_value_heads": 3, "head_dim": 80}, 2 * 3 * 80),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 576),
        ({}, 2 * 12 * 64),
    ],
)
def test_families_keep_different_widths_of_a_token(config: dict[str, int], width: int) -> None:
    shape = shape_of({"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, **config}, 5, 2)
    assert (shape.layers, shape.parameters, shape.kv_width) == (12, 5, width)
    assert shape.kv_bytes == 12 * width * 2


def test_a_dtype_nobody_knows_is_refused() -> None:
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 9}
    assert shape_of({**sizes, "torch_dtype": "bfloat16"}).dtype_bytes == 2
    with pytest.raises(UnknownShape, match="the dtype 'int3' is not known: use one of float64"):
        shape_of({**sizes, "dtype": "int3"})
