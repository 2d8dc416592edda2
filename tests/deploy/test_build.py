"""The programs that the Dockerfiles run while they build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "deploy" / "build"


def run(script: str, *args: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """In an interpreter that has nothing installed but what lies in `path`."""
    command = [sys.executable, "-S", BUILD / script, *args]
    env = {"PYTHONPATH": str(path)} if path else {}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def install(folder: Path, name: str, version: str) -> None:
    """As pip leaves it."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_the_requirements_of_an_image_are_the_project_s() -> None:
    gateway = run("requirements.py").stdout.splitlines()
    worker = run("requirements.py", "cpu").stdout.splitlines()
    assert any(line.startswith("flask") for line in gateway)
    assert not any(line.startswith(("torch", "transformers", "sagrada")) for line in gateway)
    assert set(gateway) < set(worker) and "torch==2.13.0" in worker
    assert any(line.startswith("transformers") for line in worker), "of the extra that `cpu` names"
    assert not any(line.startswith("torch") for line in run("requirements.py", "gaudi").stdout.splitlines())


def test_a_torch_that_pip_has_replaced_fails_the_build(tmp_path: Path) -> None:
    theirs, remembered = tmp_path / "theirs", tmp_path / "torch.txt"
    for name, version in (("torch", "2.11.0"), ("habana-torch-plugin", "1.24.1.482"), ("numpy", "1.26.4")):
        install(theirs, name, version)
    assert run("untouched.py", "--remember", remembered, path=theirs).returncode == 0
    install(theirs, "flask", "3.1.3")
    (theirs / "numpy-1.26.4.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numpy\nVersion: 2.0\n"
    )
    assert run("untouched.py", remembered, path=theirs).returncode == 0, "others may change"
    (theirs / "torch-2.11.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.13\n"
    )
    failed = run("untouched.py", remembered, path=theirs)
    assert failed.returncode == 1
    assert "was torch 2.11.0" in failed.stderr and "is now torch 2.13" in failed.stderr


def test_a_second_torch_before_the_first_fails_the_build(tmp_path: Path) -> None:
    theirs, ours, remembered = tmp_path / "theirs", tmp_path / "ours", tmp_path / "torch.txt"
    install(theirs, "torch", "2.11.0")
    assert run("untouched.py", "--remember", remembered, path=theirs).returncode == 0
    install(ours, "torch", "2.11.0")
    both = Path(f"{ours}:{theirs}")
    assert run("untouched.py", remembered, path=both).returncode == 1


def test_an_image_without_torch_is_not_intel_s(tmp_path: Path) -> None:
    failed = run("untouched.py", "--remember", tmp_path / "torch.txt", path=tmp_path)
    assert failed.returncode == 1 and "is it Intel's?" in failed.stderr


@pytest.mark.parametrize("script", sorted(BUILD.glob("*.py")), ids=lambda script: script.name)
def test_they_need_nothing_installed(script: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-S", "-c", f"import runpy; runpy.run_path({str(script)!r})"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
