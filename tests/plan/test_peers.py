"""The peers' buckets as their own generators count them: from vllm-gaudi's code and logs, and TGI's documentation."""

from __future__ import annotations

import pytest

from bench.peers import (
    Server,
    cheapest_covering,
    exponential,
    fallback,
    first_covering,
    linear,
    padding_aware,
    tgi,
)

GAUDI_2, GAUDI_3, AMPLE = 3775, 5319, 1_000_000
"""KV blocks of an 8B model in bfloat16."""


@pytest.mark.parametrize(
    ("length", "budget", "physical", "exp", "lin", "pad"),
    [
        (8192, 2048, GAUDI_2, (72, 53), (1009, 91), (139, 90)),
        (8192, 8192, GAUDI_2, (23, 53), (4033, 91), (204, 90)),
        (32_768, 2048, GAUDI_2, (90, 88), (4081, 282), (259, 159)),
        (32_768, 2048, GAUDI_3, (90, 82), (4081, 282), (259, 159)),
        (32_768, 8192, GAUDI_2, (120, 88), (16_321, 282), (303, 159)),
    ],
)
def test_vllm_warms_up_as_many(
    length: int, budget: int, physical: int, exp: object, lin: object, pad: object
) -> None:
    server = Server(seqs=64, length=length, budget=budget, physical=physical)
    made = [make(server) for make in (exponential, linear, padding_aware)]
    assert [(len(peer.prefill), len(peer.decode)) for peer in made] == [exp, lin, pad]


@pytest.mark.parametrize(
    ("seqs", "prompt", "length", "tokens", "counts"),
    [
        (32, 1024, 2048, 2048, (21, 30)),
        (256, 1024, 2048, 4096, (31, 125)),
        (4, 512, 1024, 2048, (12, 6)),
        (4, 4096, 8192, 16_384, (39, 9)),
    ],
)
def test_tgi_warms_up_as_many(
    seqs: int, prompt: int, length: int, tokens: int, counts: tuple[int, int]
) -> None:
    peer = tgi(Server(seqs, length, tokens, AMPLE), prompt, tokens)
    assert (len(peer.prefill), len(peer.decode)) == counts


def test_tgis_axes_are_the_documented_ones() -> None:
    peer = tgi(Server(32, 2048, 2048, AMPLE), 1024, 2048)
    assert sorted({rows for rows, _ in peer.decode}) == [1, 2, 4, 9, 17, 32]
    assert sorted({blocks for _, blocks in peer.decode}) == [128, 256, 384, 512, 640]


def test_vllm_takes_the_first_bucket_in_order_not_the_cheapest() -> None:
    assert first_covering(((1, 64), (2, 64), (4, 8)), (1, 5)) == (1, 64)
    assert first_covering(((1, 64), (2, 64), (4, 8)), (3, 9)) is None
    assert cheapest_covering(((1, 64), (2, 64), (4, 8)), (1, 5)) == (4, 8)


def test_what_vllm_compiles_on_a_miss() -> None:
    assert (fallback(31, 32), fallback(4001, 32), fallback(1, 32)) == (128, 4096, 1)
