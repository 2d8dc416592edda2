from __future__ import annotations

import json
from pathlib import Path

import pytest

from models import histogram
from models.histogram import MOST_LAUNCHES, MOST_SHAPES, Histogram, HistogramBroken


def test_what_was_counted_is_read_back(tmp_path: Path) -> None:
    counted = Histogram()
    for _ in range(3):
        counted.count("decode", 4, 17)
    counted.count("prefill", 200, 2)
    counted.save(tmp_path / "shapes.json")
    assert dict(Histogram.load(tmp_path / "shapes.json")) == {("decode", 4, 17): 3, ("prefill", 200, 2): 1}
    assert [path.name for path in tmp_path.iterdir()] == ["shapes.json"], "nothing is left beside it"


def test_saving_replaces_the_file_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shapes.json"
    Histogram({("decode", 1, 1): 1}).save(path)

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        Histogram({("decode", 2, 2): 2}).save(path)
    assert dict(Histogram.load(path)) == {("decode", 1, 1): 1}
    assert list(tmp_path.iterdir()) == [path]


def test_servers_add_up() -> None:
    one = Histogram({("decode", 1, 1): 1})
    one.merge(Histogram({("decode", 1, 1): 2, ("score", 5, 1): 1}))
    assert dict(one) == {("decode", 1, 1): 3, ("score", 5, 1): 1}


def test_a_shape_never_seen_counts_nothing() -> None:
    assert Histogram()["decode", 1, 1] == 0


def test_it_stays_bounded_and_keeps_what_is_common() -> None:
    counted = Histogram()
    for _ in range(100):
        counted.count("decode", 1, 1)
    for index in range(3 * MOST_SHAPES):
        counted.count("prefill", 1 + index, 1)
        assert len(counted) <= MOST_SHAPES
    assert counted["decode", 1, 1] >= 10


def test_old_traffic_fades(tmp_path: Path) -> None:
    Histogram({("decode", 1, 1): 3 * MOST_LAUNCHES, ("decode", 2, 2): 3}).save(tmp_path / "h")
    aged = Histogram.load(tmp_path / "h")
    assert dict(aged) == {("decode", 1, 1): 3 * MOST_LAUNCHES // 4}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not JSON"),
        ("[]", "is not of version 1"),
        ('{"version": 2, "shapes": []}', "is not of version 1"),
        ('{"version": 1}', "has no list of shapes"),
        ('{"version": 1, "shapes": [["sleep", 1, 1, 1]]}', "has an entry"),
        ('{"version": 1, "shapes": [["decode", 0, 1, 1]]}', "has an entry"),
        ('{"version": 1, "shapes": [["decode", 1, 1]]}', "has an entry"),
        ('{"version": 1, "shapes": [[["decode"], 1, 1, 1]]}', "has an entry"),
    ],
)
def test_garbage_is_refused_with_a_sentence(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "h").write_text(content)
    with pytest.raises(HistogramBroken, match=why):
        Histogram.load(tmp_path / "h")


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    Histogram({("prefill", 5, 1): 2, ("decode", 4, 17): 3}).save(tmp_path / "h")
    assert json.loads((tmp_path / "h").read_text()) == {
        "version": histogram.VERSION,
        "shapes": [["decode", 4, 17, 3], ["prefill", 5, 1, 2]],
    }
