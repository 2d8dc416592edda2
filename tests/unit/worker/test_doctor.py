"""What the doctor makes of machines of all kinds, and that it says what to do."""

from __future__ import annotations

import os
import resource
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.support.cards import GAUDI_2, TWO_GAUDI_3, TWO_GPUS, hl_smi, nvidia_smi
from worker.card import Card, Kind
from worker.card_lock import CardLock
from worker.config import Config
from worker.doctor import hardware, software
from worker.doctor.finding import Finding, as_json, as_text
from worker.doctor.machine import Machine, numbers, read

ROOT = Path(__file__).parents[3]
CELERY = {"celery": "5.7.1", "kombu": "5.7.0"}
ON_CPU = {"torch": "2.13.0+cpu", "transformers": "5.24.0", **CELERY}
ON_GAUDI = {
    "torch": "2.11.0",
    "transformers": "4.55.4",
    "habana-torch-plugin": "1.24.1.482",
    **CELERY,
}
LAZY = {"PT_HPU_LAZY_MODE": "0"}
ME = f"{os.getpid()} on {os.uname().nodename}"


def machine(kind: str = "cpu", versions: dict[str, str] | None = None, **also: Any) -> Machine:
    known: dict[str, Any] = {
        "kind": kind,
        "chosen": True,
        "variables": LAZY,
        "versions": ON_CPU if versions is None else versions,
        "tools": frozenset(),
        "python": (3, 12),
        "system": "ubuntu 24.04",
        "container": True,
    }
    return Machine(**known | also)


def bad(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Level and text of all that is not well; each of them says what to do."""
    found = [finding for finding in findings if finding.level != "ok"]
    assert all(finding.remedy.endswith(".") for finding in found)
    return [(finding.level, finding.text) for finding in found]


def said(findings: Iterable[Finding]) -> str:
    return "\n".join(map(str, findings))


@pytest.fixture
def bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


# Software


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (machine(), []),
        (machine("hpu", ON_GAUDI), []),
        (machine("cpu", CELERY), [("error", "torch is not"), ("error", "transformers is not")]),
        (machine("hpu", ON_GAUDI | {"celery": "5.6.2"}), [("error", "celery is 5.6.2, not 5.7")]),
        (machine("hpu", ON_GAUDI | {"kombu": "6.0.0"}), [("error", "kombu is 6.0.0, not 5.7")]),
    ],
)
def test_versions(made: Machine, found: list[tuple[str, str]]) -> None:
    heard = bad(software.versions(made))
    assert len(heard) == len(found)
    for (level, text), (wanted, part) in zip(heard, found, strict=True):
        assert level == wanted and part in text


def test_what_is_missing_is_installed_by_the_right_name() -> None:
    assert "pip install 'sagrada[cpu]'" in said(software.versions(machine("cpu", CELERY)))
    assert "pip install 'sagrada[cuda]'" in said(software.versions(machine("cuda", CELERY)))
    on_gaudi = said(software.versions(machine("hpu", CELERY)))
    assert "torch is not installed. Use one of Intel's images" in on_gaudi
    assert "pip install 'sagrada[gaudi]'" in on_gaudi


@pytest.mark.parametrize(
    ("kind", "versions", "found"),
    [
        ("cpu", ON_CPU, []),
        ("cuda", ON_CPU | {"torch": "2.11.0+cu130"}, []),
        ("hpu", ON_GAUDI, []),
        ("hpu", ON_GAUDI | {"habana-torch-plugin": "1.24.0.700", "torch": "2.10.0"}, []),
        ("hpu", ON_GAUDI | {"habana-torch-plugin": "1.21.0.555", "torch": "2.6.0+hpu"}, []),
        ("cpu", ON_CPU | {"transformers": "4.50.1"}, [("error", "4.50.1 is not supported on cpu")]),
        ("cpu", ON_CPU | {"transformers": "6.0.0"}, [("error", "6.0.0 is not supported on cpu")]),
        ("hpu", ON_GAUDI | {"transformers": "5.24.0"}, [("error", "5.24.0 is not supported on hpu")]),
        ("cuda", ON_CPU, [("error", "torch 2.13.0+cpu is built without CUDA")]),
        ("hpu", ON_CPU | {"transformers": "4.55.0"}, [("error", "habana-torch-plugin is not installed")]),
        (
            "hpu",
            ON_GAUDI | {"torch": "2.13.0"},
            [
                (
                    "error",
                    "habana-torch-plugin 1.24.1.482 is built for torch 2.11, and torch 2.13.0 is installed.",
                )
            ],
        ),
        ("hpu", ON_GAUDI | {"habana-torch-plugin": "2.0.1"}, [("warning", "2.0.1 is not known here")]),
    ],
)
def test_pairing(kind: str, versions: dict[str, str], found: list[tuple[str, str]]) -> None:
    heard = bad(software.pairing(machine(kind, versions)))
    assert len(heard) == len(found)
    for (level, text), (wanted, part) in zip(heard, found, strict=True):
        assert level == wanted and part in text


def test_the_ranges_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    of: dict[Kind, str] = {"cpu": "worker", "cuda": "worker", "hpu": "gaudi"}
    for kind, extra in of.items():
        (wanted,) = [r for text in extras[extra] if (r := Requirement(text)).name == "transformers"]
        least, below = software.TRANSFORMERS[kind]
        assert wanted.specifier.contains(f"{least[0]}.{least[1]}.0")
        assert wanted.specifier.contains(f"{below[0]}.{below[1] - 1}.9" if below[1] else f"{below[0] - 1}.99")
        assert not wanted.specifier.contains(f"{below[0]}.{below[1]}.0")
        assert not wanted.specifier.contains(f"{least[0]}.{least[1] - 1}.9")
    for text in project["dependencies"]:
        if (requirement := Requirement(text)).name in ("celery", "kombu"):
            assert requirement.specifier.contains("5.7.3") and not requirement.specifier.contains("5.8.0")


def test_the_environment() -> None:
    given = {"PT_HPU_LAZY_MODE": "0", "HABANA_LOGS": "/tmp/logs", "HOME": "/root"}
    first, mode = software.environment(machine("hpu", ON_GAUDI, variables=given))
    assert first.level == "ok" and first.text == "Set for devices: HABANA_LOGS=/tmp/logs, PT_HPU_LAZY_MODE=0."
    assert mode.level == "ok" and mode.text == "Engines will use torch.compile."
    for variables, level, part in (
        ({"PT_HPU_LAZY_MODE": "yes"}, "error", "PT_HPU_LAZY_MODE is 'yes'."),
        ({"PT_HPU_LAZY_MODE": "1"}, "error", "needs Intel's own build of torch"),
        (LAZY | {"HLS_MODULE_ID": "3"}, "warning", "HLS_MODULE_ID=3 sends every engine"),
    ):
        ((found, text),) = bad(software.environment(machine("hpu", ON_GAUDI, variables=variables)))
        assert found == level and part in text
    fork = ON_GAUDI | {"torch": "2.6.0+git0abcdef"}
    for variables in ({}, {"PT_HPU_LAZY_MODE": "1"}):
        _, mode = software.environment(machine("hpu", fork, variables=variables))
        assert mode.level == "ok" and mode.text == "Engines will use HPU Graphs."
    assert bad(software.environment(machine("cpu", variables={}))) == []


def test_the_image() -> None:
    assert bad(software.image(machine("hpu", ON_GAUDI))) == []
    assert bad(software.image(machine("cpu", system="debian 12", python=(3, 11)))) == []
    ((level, text),) = bad(software.image(machine("hpu", ON_GAUDI, system="ubuntu 22.04", python=(3, 10))))
    assert (level, text) == ("warning", "ubuntu 22.04 with Python 3.10, in a container.")
    assert "on the host" in said(software.image(machine(container=False)))


# Hardware


def test_the_driver(bin: Path) -> None:
    assert bad(hardware.driver(machine())) == []
    ((level, text),) = bad(hardware.driver(machine(chosen=False, tools=frozenset({"hl-smi"}))))
    assert level == "warning" and "hl-smi is here, and what is installed runs on the CPU only" in text
    ((level, text),) = bad(hardware.driver(machine("hpu", ON_GAUDI)))
    assert level == "error" and "hl-smi is not on PATH" in text
    tool = hl_smi(bin, GAUDI_2)
    assert said(hardware.driver(machine("hpu", ON_GAUDI))).endswith("hl-smi answers, driver 1.24.1-5a9c3f1.")
    tool.says(GAUDI_2, driver="1.22.0-740\n")
    ((level, text),) = bad(hardware.driver(machine("hpu", ON_GAUDI)))
    assert level == "warning" and "The driver is 1.22.0-740, and habana-torch-plugin is 1.24.1.482." in text
    tool.breaks("No devices found")
    ((level, text),) = bad(hardware.driver(machine("hpu", ON_GAUDI)))
    assert level == "error" and "No devices found" in text
    nvidia_smi(bin, TWO_GPUS)
    assert "nvidia-smi answers, driver 570.86.15." in said(hardware.driver(machine("cuda")))


def test_every_gaudi_is_listed_with_who_holds_it(bin: Path, tmp_path: Path) -> None:
    hl_smi(bin, GAUDI_2)
    held = CardLock(tmp_path, Card(kind="hpu", id=2))
    found = list(hardware.cards(machine("hpu", ON_GAUDI), tmp_path))
    held.release()
    assert len(found) == 8
    assert found[0].text == "hpu 0: Gaudi 2 (HL-225), 96 GB, 0.8 GB used, FP8 to 240, 26 °C; free."
    assert found[2].text.endswith(f"28 °C; held by process {ME}.")
    assert [(f.level, f.text.rpartition("; ")[2]) for f in found if f.level != "ok"] == [
        ("warning", "in use, and by no worker of ours.")
    ]
    assert [path.name for path in tmp_path.glob("*.lock")] == ["sagrada-card-hpu-2.lock"], (
        "looking leaves nothing"
    )


def test_cards_of_other_generations(bin: Path, tmp_path: Path) -> None:
    tool = hl_smi(bin, TWO_GAUDI_3 + "2, N/A, 0000:33:00.0, N/A, N/A, HL-325L\n")
    (first, _, broken) = hardware.cards(machine("hpu", ON_GAUDI), tmp_path)
    assert "Gaudi 3 (HL-325L), 128 GB" in first.text and "FP8 to 448" in first.text
    assert broken.level == "warning" and broken.text.startswith("The tool says: 2, N/A")
    tool.says("0, 0, 0000:19:00.0, 512 MiB, 30 C, HL-205\n1, 1, 0000:1a:00.0, 0 MiB, 30 C, HL-999\n")
    first, odd, outdated = hardware.cards(machine("hpu", ON_GAUDI), tmp_path)
    assert "Gaudi 1 (HL-205), 32 GB" in first.text and "no FP8, software up to 1.21" in first.text
    assert odd.level == "warning" and "hpu 1: HL-999" in odd.text
    assert outdated.level == "error" and "Gaudi 1 is supported up to 1.21" in outdated.text
    hidden = machine(
        "hpu", ON_GAUDI | {"habana-torch-plugin": "1.21.0"}, variables={"HABANA_VISIBLE_MODULES": "0"}
    )
    assert "Hidden by the environment: 1." in said(hardware.cards(hidden, tmp_path))
    assert bad(hardware.cards(hidden, tmp_path)) == []


def test_gpus_cores_and_no_card_at_all(bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bin, TWO_GPUS)
    found = list(hardware.cards(machine("cuda"), tmp_path))
    assert [finding.text for finding in found] == [
        "cuda 0: NVIDIA H100 80GB HBM3, 80 GB; free.",
        "cuda 1: NVIDIA H100 80GB HBM3, 80 GB; free.",
    ]
    ((level, text),) = bad(hardware.cards(machine("hpu"), tmp_path))
    assert level == "error" and "hl-smi is not on PATH" in text
    ((level, text),) = bad(hardware.cards(machine("cuda"), tmp_path / "nowhere"))[:1]
    assert level == "error" and "lock" in text
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    held = CardLock(tmp_path, Card(kind="cpu", id=1))
    (cores,) = hardware.cards(machine(), tmp_path)
    held.release()
    assert cores.text == f"3 cores: 0-2; held by process {ME} (1)."
    (cores,) = hardware.cards(machine(), tmp_path)
    assert cores.text == "3 cores: 0-2; free."


def test_shared_memory_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bad(hardware.shared_memory(tmp_path / "nowhere"))[0][0] == "warning"
    monkeypatch.setattr(hardware, "LEAST_SHM", 0)
    assert bad(hardware.shared_memory(tmp_path)) == []
    monkeypatch.setattr(hardware, "LEAST_SHM", 1 << 62)
    assert "too little for models over several cards" in said(hardware.shared_memory(tmp_path))

    allowed = {resource.RLIMIT_NOFILE: 65536, resource.RLIMIT_MEMLOCK: 64 << 10}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (allowed[which], -1))
    assert said(hardware.limits(machine())).endswith("may open 65536 files and lock 64 KiB of memory.")
    assert "may lock 64 KiB" in bad(hardware.limits(machine("hpu")))[0][1]
    allowed[resource.RLIMIT_MEMLOCK] = resource.RLIM_INFINITY
    assert bad(hardware.limits(machine("hpu"))) == []
    allowed[resource.RLIMIT_NOFILE] = 1024
    assert "may open 1024 files" in bad(hardware.limits(machine()))[0][1]


# The report


def test_a_report_is_a_line_for_each_finding_or_json() -> None:
    findings = [Finding("a", "ok", "Fine."), Finding("b", "error", "Not fine.", "Mend it.")]
    assert as_text(findings).splitlines() == [
        "ok       a            Fine.",
        "error    b            Not fine. Mend it.",
        "1 errors, 0 warnings",
    ]
    assert '"errors": 1' in as_json(findings) and '"remedy": "Mend it."' in as_json(findings)


def test_this_machine_is_read_without_importing_what_is_installed(bin: Path) -> None:
    hl_smi(bin, GAUDI_2)
    here = read(Config(device="hpu"))
    assert (here.kind, here.chosen, here.tools) == ("hpu", True, frozenset({"hl-smi"}))
    assert here.version("celery")[0] == 5 and here.version("habana-torch-plugin") == ()


def test_versions_are_read_as_numbers() -> None:
    assert numbers("2.11.0+cpu") == (2, 11, 0)
    assert numbers("1.24.1-5a9c3f1") == (1, 24)
    assert numbers("2.13.0rc1") == (2, 13)
    assert numbers("") == ()
