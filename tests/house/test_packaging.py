"""The wheel is whole, installs into a clean environment, and declares what it imports."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sagrada import __version__
from tests.house.rules import ARROWS, EXCEPTIONS, THIRD_PARTY, modules

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CLEAN_ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path) -> str:
    """What the command wrote; a failing one fails the test with all that it said."""
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=CLEAN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, f"{command}:\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the environment's own hatchling: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-cache-dir", "--quiet", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", *options, ROOT, cwd=folder)
    return next(folder.glob("sagrada-*.whl"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment that holds the wheel.

    The third parties are borrowed from the running environment by a path line, so that the test needs no network;
    lines of that environment's own .pth files (an editable install of the checkout) have no effect there.
    """
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *offline, wheel, cwd=folder)
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_every_file_of_every_room(wheel: Path) -> None:
    rooms = {p for room in ARROWS for p in (ROOT / room).rglob("*") if p.is_file()}
    wanted = {str(p.relative_to(ROOT)) for p in rooms if "__pycache__" not in p.parts}
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - packed == set()
    assert {name for name in packed if ".dist-info/" not in name} - wanted == set()
    assert {f"{room}/py.typed" for room in ARROWS} <= packed
    assert any(name.endswith(".lua") for name in packed)


def test_the_wheel_carries_the_demo_models_weights(wheel: Path) -> None:
    packed = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    weights = {n: size for n, size in packed.items() if n.startswith("models/demo/weights/")}
    assert any(name.endswith(".safetensors") for name in weights)
    assert "models/demo/weights/config.json" in weights
    assert 100_000 < sum(weights.values()) <= 6_000_000


def test_every_package_imports_from_the_wheel(clean: Path) -> None:
    code = "import importlib, sys; print(importlib.import_module(sys.argv[1]).__file__)"
    for room in (*ARROWS, "models.demo"):
        assert str(clean.parents[1]) in run(clean, "-c", code, room, cwd=clean.parent)


def test_the_command_runs_from_the_wheel(clean: Path) -> None:
    said = run(clean.parent / "sagrada", "--help", cwd=clean.parent)
    for command in ("up", "gateway", "worker", "doctor", "generate", "submit", "status", "stream", "cancel"):
        assert re.search(rf"^\s+{command}\b", said, re.MULTILINE), said
    version = run(clean.parent / "sagrada", "--version", cwd=clean.parent)
    assert __version__ in version


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name).replace("-", "_") for text in requirements}


def test_what_is_imported_is_declared() -> None:
    base = names_of(PROJECT["dependencies"])
    worker = base | names_of(EXTRAS["worker"])
    allowed = {room: THIRD_PARTY[room] for room in ARROWS}
    for module in modules(ROOT):
        declared = worker | {"torch"} if module.room == "models" else base
        # werkzeug is flask's; the accelerators' packages come with the accelerators' images.
        declared |= {"werkzeug", "llguidance", "optimum", "habana_frameworks"}
        used = {t.partition(".")[0] for t in module.imports}
        used &= allowed[module.room] | EXCEPTIONS.get(module.name, frozenset())
        assert used <= declared, (
            f"{module.name} imports {used - declared}, which pyproject.toml does not declare"
        )


def required(requirements: list[str], extras: frozenset[str]) -> Iterator[Requirement]:
    """The requirements that apply here when these extras are asked for."""
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement


def pulled_in(requirements: list[str]) -> set[str]:
    """Every distribution that installing these would bring, as far as what is installed here can tell."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [*required(requirements, frozenset())]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name == "sagrada":
            waiting += [Requirement(text) for extra in extras for text in EXTRAS[extra]]
            continue
        try:
            declared = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += required(declared, extras)
    return {name for name, _ in seen}


def test_the_gaudi_extra_never_touches_torch() -> None:
    pulled = pulled_in([*PROJECT["dependencies"], *EXTRAS["gaudi"], *EXTRAS["embedded"]])
    assert {"celery", "transformers", "safetensors", "vine"} <= pulled
    assert not [name for name in pulled if name.startswith(("torch", "nvidia", "triton", "habana"))]


def test_the_base_carries_no_worker() -> None:
    pulled = pulled_in(PROJECT["dependencies"])
    assert not pulled & {"torch", "transformers", "safetensors", "numpy"}


def test_the_walk_over_requirements_would_notice_torch() -> None:
    assert "torch" in pulled_in(["sagrada[cpu]"])
    assert "torch" in pulled_in(["sagrada[cuda]"])
