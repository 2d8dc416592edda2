"""Cards, their groups and what binds an engine to them: tables, and a sentence for all that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from worker.card import ALL, GENERATIONS, Card, CardError, Group, Kind, divide, group_of, in_words


def cards(kind: Kind, *ids: int, **also: Any) -> list[Card]:
    return [Card(kind=kind, id=id, **also) for id in ids]


GAUDI = cards("hpu", *range(8))
GPUS = [Card(kind="cuda", id=id, uuid=f"GPU-{id}{id}{id}") for id in range(3)]
CORES = cards("cpu", *range(8))


def groups(text: str, found: list[Card], size: int = 1) -> list[str]:
    return [group.text for group in divide(text, found, size)]


@pytest.mark.parametrize(
    ("text", "found", "size", "expected"),
    [
        ("0,1", GAUDI, 1, ["0", "1"]),
        ("2-4", GAUDI, 1, ["2", "3", "4"]),
        (ALL, GAUDI, 1, list("01234567")),
        (ALL, GAUDI[:3], 1, ["0", "1", "2"]),
        ("0,1", GAUDI, 2, ["0,1"]),
        (ALL, GAUDI, 2, ["0,1", "2,3", "4,5", "6,7"]),
        ("6,7,2,3", GAUDI, 2, ["2,3", "6,7"]),
        (ALL, GAUDI, 4, ["0-3", "4-7"]),
        ("4-7", GAUDI, 4, ["4-7"]),
        (ALL, GAUDI, 8, ["0-7"]),
        (ALL, GPUS, 1, ["0", "1", "2"]),
        ("GPU-222,0", GPUS, 1, ["2", "0"]),
        ("0,2", GPUS, 2, ["0,2"]),
        (ALL, CORES, 1, list("01234567")),
        ("0-3,4-7", CORES, 1, ["0-3", "4-7"]),
        ("7, 0-1", CORES, 1, ["7", "0,1"]),
    ],
)
def test_cards_are_divided(text: str, found: list[Card], size: int, expected: list[str]) -> None:
    assert groups(text, found, size) == expected


@pytest.mark.parametrize(
    ("text", "found", "size", "sentence"),
    [
        ("8", GAUDI, 1, "There is no hpu card '8' here: there are 0-7."),
        ("0,GPU-9", GPUS, 1, "There is no cuda card 'GPU-9' here: there are 0-2."),
        ("0-8", CORES, 1, "There is no core '8' here: there are 0-7."),
        ("", GAUDI, 1, "There is no hpu card '' here"),
        ("first", GAUDI, 1, "There is no hpu card 'first' here"),
        ("3-1", GAUDI, 1, "'3-1' is no range of cards"),
        ("0-99999999", GAUDI, 1, "is no range of cards"),
        ("0,1,0", GAUDI, 1, "hpu card 0 is named twice"),
        ("0-3,3-5", CORES, 1, "cpu card 3 is named twice"),
        ("0,GPU-000", GPUS, 1, "cuda card 0 is named twice"),
        (
            "1,2",
            GAUDI,
            2,
            "Cards 1,2 make no group of 2: Gaudi cards are joined as {0,1}, {2,3}, {4,5}, {6,7}",
        ),
        ("0-2", GAUDI, 2, "Cards 2 make no group of 2"),
        ("2-5", GAUDI, 4, "Cards 2-5 make no group of 4: Gaudi cards are joined as {0-3}, {4-7} and not"),
        (ALL, GAUDI[:7], 8, "Cards 0-6 make no group of 8: Gaudi cards are joined as {0-7}"),
        (ALL, GAUDI, 3, "A model spans 1, 2, 4 or 8 Gaudi cards, not 3."),
        (ALL, GPUS, 2, "3 cards cannot be divided into groups of 2: 0-2."),
        (ALL, [], 1, "There is no card"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_what_there_is(
    text: str, found: list[Card], size: int, sentence: str
) -> None:
    with pytest.raises(CardError) as refused:
        divide(text, found, size)
    assert sentence in str(refused.value)


def test_one_worker_takes_one_group() -> None:
    assert group_of("3", GAUDI).ids == (3,)
    assert group_of("4,5", GAUDI, 2).ids == (4, 5)
    assert group_of("4-6", CORES).ids == (4, 5, 6)
    assert group_of("GPU-111", GPUS).ids == (1,)
    for text, size, sentence in (
        ("0,1", 1, "'0,1' names 2 cards, and this worker's model takes one card."),
        ("0", 2, "'0' names 1 cards, and this worker's model takes 2 cards."),
        ("1,2", 2, "Cards 1,2 make no group of 2"),
        ("4,4", 2, "named twice"),
    ):
        with pytest.raises(CardError) as refused:
            group_of(text, GAUDI, size)
        assert sentence in str(refused.value)
    with pytest.raises(CardError, match="no card"):
        group_of("0", [])


def test_a_gaudi_is_bound_by_both_variables_for_each_rank() -> None:
    """With HLS_MODULE_ID alone, a process whose card is taken gets any other that is free."""
    assert group_of("3", GAUDI).environment() == {"HLS_MODULE_ID": "3", "HABANA_VISIBLE_MODULES": "3"}
    pair = group_of("4,5", GAUDI, 2)
    assert pair.environment(1) == {"HLS_MODULE_ID": "5", "HABANA_VISIBLE_MODULES": "4,5"}
    assert [pair.environment(rank)["HLS_MODULE_ID"] for rank in (0, 1)] == ["4", "5"]
    whole = divide(ALL, GAUDI, 4)[1]
    assert whole.environment(3) == {"HLS_MODULE_ID": "7", "HABANA_VISIBLE_MODULES": "4,5,6,7"}


def test_a_gpu_is_bound_by_what_does_not_change_and_a_set_of_cores_by_its_threads() -> None:
    assert group_of("1", GPUS).environment() == {"CUDA_VISIBLE_DEVICES": "GPU-111"}
    assert group_of("1", cards("cuda", 0, 1)).environment() == {"CUDA_VISIBLE_DEVICES": "1"}
    cores = group_of("2-4,7", CORES)
    assert cores.environment() == {"OMP_NUM_THREADS": "4"}
    assert cores.cores == {2, 3, 4, 7}
    assert group_of("3", GAUDI).cores == frozenset()


def test_labels_fit_into_a_node_s_name() -> None:
    assert [Group(tuple(GAUDI[2:4])).label, Group(tuple(CORES[:4])).label] == ["hpu-2+3", "cpu-0-3"]
    assert group_of("GPU-222", GPUS).label == "cuda-2"


def test_a_lock_goes_by_what_is_the_card_s_own() -> None:
    assert [GAUDI[3].key, GPUS[1].key, CORES[0].key] == ["hpu-3", "cuda-GPU-111", "cpu-0"]


def test_numbers_in_words() -> None:
    assert in_words([]) == ""
    assert in_words([5, 0, 2, 3, 4, 7, 8]) == "0,2-5,7,8"


@pytest.mark.parametrize(
    ("product", "name", "gigabytes", "fp8", "strategies"),
    [
        ("HL-205", "Gaudi 1", 32, None, ("lazy",)),
        ("HL-225", "Gaudi 2", 96, 240.0, ("lazy", "compile")),
        ("HL-225H", "Gaudi 2", 96, 240.0, ("lazy", "compile")),
        ("HL-288", "Gaudi 2", 96, 240.0, ("lazy", "compile")),
        ("HL-338", "Gaudi 3", 128, 448.0, ("lazy", "compile")),
        ("HL-325L", "Gaudi 3", 128, 448.0, ("lazy", "compile")),
    ],
)
def test_a_product_s_name_tells_its_generation(
    product: str, name: str, gigabytes: int, fp8: float | None, strategies: tuple[str, ...]
) -> None:
    generation = Card(kind="hpu", id=0, name=product).generation
    assert generation is not None
    assert (generation.name, generation.memory >> 30) == (name, gigabytes)
    assert (generation.fp8_max, generation.strategies) == (fp8, strategies)


def test_other_products_have_none() -> None:
    assert Card(kind="hpu", id=0, name="HL-999").generation is None
    assert Card(kind="cuda", id=0, name="HL-225").generation is None
    assert [g.last_software for g in GENERATIONS] == ["1.21", "", ""]
