"""What the drivers' tools say, read as they say it; and every way in which they say nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.cards import GAUDI_2, TWO_GAUDI_3, TWO_GPUS, first_on_path, hl_smi, nvidia_smi
from worker import discovery
from worker.card import CardError
from worker.discovery import cores, find, hide, kind_of, parse_hl_smi, parse_nvidia_smi, run

MIB = 1 << 20


@pytest.fixture
def bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on PATH."""
    monkeypatch.setenv("PATH", first_on_path(tmp_path))
    return tmp_path


def test_hl_smi_s_answer() -> None:
    found = parse_hl_smi(GAUDI_2)
    assert [card.id for card in found.cards] == list(range(8)), "module ids, not indices"
    assert found.unreadable == ()
    third = found.cards[3]
    assert (third.bus, third.name, third.celsius, third.used) == ("0000:33:00.0", "HL-225", 27.0, 768 * MIB)
    assert third.memory == 96 << 30
    assert found.cards[1].used == 92160 * MIB


def test_a_card_that_hl_smi_cannot_describe_does_not_hide_the_others() -> None:
    text = TWO_GAUDI_3 + "2, N/A, 0000:33:00.0, N/A, N/A, HL-325L\n\nsome warning\n"
    found = parse_hl_smi(text)
    assert [card.id for card in found.cards] == [0, 1]
    assert found.unreadable == ("2, N/A, 0000:33:00.0, N/A, N/A, HL-325L", "some warning")
    odd = parse_hl_smi("0, 0, 0000:19:00.0, N/A, N/A, HL-999").cards[0]
    assert (odd.used, odd.celsius, odd.memory, odd.generation) == (None, None, 0, None)


def test_nvidia_smi_s_answer() -> None:
    found = parse_nvidia_smi(TWO_GPUS)
    assert [(card.id, card.uuid[:12], card.name) for card in found.cards] == [
        (0, "GPU-5f1c9a52", "NVIDIA H100 80GB HBM3"),
        (1, "GPU-0b6d8f3e", "NVIDIA H100 80GB HBM3"),
    ]
    assert found.cards[0].memory == 81559 * MIB
    shared = parse_nvidia_smi("0, GPU-1, NVIDIA GB10, [N/A]")
    assert shared.cards[0].memory == 0
    assert parse_nvidia_smi("No devices were found\n").cards == ()


def test_the_tools_are_called_as_documented(bin: Path) -> None:
    hl_smi(bin, TWO_GAUDI_3)
    nvidia_smi(bin, TWO_GPUS)
    assert [card.name for card in find("hpu", {}).cards] == ["HL-325L", "HL-325L"]
    assert [card.id for card in find("cuda", {}).cards] == [0, 1]
    with pytest.raises(CardError, match="hl-smi fails with status 2: hl-smi: what is --help"):
        run(("hl-smi", "--help"))


def test_a_tool_that_is_missing_fails_or_finds_nothing_is_told(
    bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(bin))
    with pytest.raises(CardError, match="nvidia-smi is not on PATH: install"):
        find("cuda", {})
    tool = hl_smi(bin, "")
    with pytest.raises(CardError, match="driver is there, but no hpu card"):
        find("hpu", {})
    tool.says("0, N/A, 0000:19:00.0, N/A, N/A, HL-325L\n")
    with pytest.raises(CardError, match="its tool says '0, N/A, 0000:19"):
        find("hpu", {})
    tool.breaks("Driver is not loaded")
    with pytest.raises(CardError, match="hl-smi fails with status 9: Driver is not loaded"):
        find("hpu", {})


def test_a_tool_that_hangs_is_not_waited_for(bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bin / "hl-smi").write_text("#!/bin/sh\nexec /bin/sleep 1000\n")
    (bin / "hl-smi").chmod(0o755)
    monkeypatch.setattr(discovery, "PATIENCE", 0.2)
    with pytest.raises(CardError, match="hl-smi does not answer"):
        find("hpu", {})
    (bin / "hl-smi").chmod(0o644)
    with pytest.raises(CardError, match="hl-smi does not answer|is not on PATH"):
        find("hpu", {})


def test_what_the_environment_hides_is_not_there(bin: Path) -> None:
    hl_smi(bin, GAUDI_2)
    nvidia_smi(bin, TWO_GPUS)
    found = find("hpu", {"HABANA_VISIBLE_MODULES": "2,3"})
    assert [card.id for card in found.cards] == [2, 3]
    assert found.hidden == (0, 1, 4, 5, 6, 7)
    assert len(find("hpu", {"HABANA_VISIBLE_MODULES": "all"}).cards) == 8
    assert len(find("hpu", {"HABANA_VISIBLE_MODULES": ""}).cards) == 8
    assert [c.id for c in find("cuda", {"CUDA_VISIBLE_DEVICES": "GPU-0b6d"}).cards] == [1]
    assert [c.id for c in find("cuda", {"CUDA_VISIBLE_DEVICES": "0"}).cards] == [0]
    with pytest.raises(CardError, match="HABANA_VISIBLE_MODULES hides every hpu card"):
        find("hpu", {"HABANA_VISIBLE_MODULES": "9"})
    assert hide(parse_hl_smi(TWO_GAUDI_3), "1,").hidden == (0,)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="sets of cores need Linux")
def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {core.id for core in find("cpu", {}).cards} == os.sched_getaffinity(0)
    monkeypatch.delattr(os, "sched_getaffinity")
    with pytest.raises(CardError, match="need Linux"):
        cores()


def test_auto_is_what_is_installed(bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bin))
    here = {"torch": "2.11.0"}
    monkeypatch.setattr(discovery, "installed", lambda name: here.get(name, ""))
    assert kind_of("auto") == "cpu"
    nvidia_smi(bin, TWO_GPUS)
    assert kind_of("auto") == "cuda"
    here["torch"] = "2.13.0+cpu"
    assert kind_of("auto") == "cpu"
    hl_smi(bin, TWO_GAUDI_3)
    assert kind_of("auto") == "cpu", "the tool alone is no plugin"
    here["habana-torch-plugin"] = "1.24.1.482"
    assert kind_of("auto") == "hpu"
    assert kind_of("cuda") == "cuda"
