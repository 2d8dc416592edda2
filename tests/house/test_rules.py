"""The house stands as DESIGN draws it, and the rules would notice if it did not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rules import ARROWS, TORCH_FREE, modules, violations

ROOT = Path(__file__).parents[2]


def test_the_house_keeps_its_rules() -> None:
    assert violations(ROOT) == []


def test_every_room_is_looked_at() -> None:
    names = {module.name for module in modules(ROOT)}
    assert names >= {*ARROWS, "wire.job", "models.step", "worker.link", "sagrada.embedded"}
    assert names >= TORCH_FREE


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"wire/a.py": "import gateway.app"}, "wire.a imports gateway.app"),
        ({"gateway/a.py": "def f():\n    from worker import app"}, "gateway.a imports worker"),
        (
            {"models/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wire.job"},
            "models.a imports wire.job",
        ),
        ({"sagrada/client.py": "import wire.job"}, "sagrada.client imports wire.job"),
        ({"sagrada/client.py": "import rich"}, "sagrada.client imports rich"),
        ({"worker/a.py": "import torch.nn"}, "worker.a imports torch.nn: not on worker's list"),
        ({"wire/a.py": "from transformers import AutoTokenizer"}, "wire.a imports transformers"),
        ({"models/plan.py": "import torch"}, "models.plan imports torch: the worker's parent"),
        ({"models/step.py": "from models import runner", "models/runner.py": ""}, "models.step imports"),
        ({"wire/a.py": "from wire import b", "wire/b.py": "def f():\n    import wire.a"}, "A cycle: wire.a"),
        ({"wire/a.py": "from . import b", "wire/b.py": "from .a import x"}, "A cycle: wire.a → wire.b"),
        ({"worker/a.py": "import os\nx = os.environ['A']"}, "worker.a:2 reads the environment"),
        ({"worker/a.py": "from os import getenv"}, "worker.a:1 reads the environment"),
        ({"sagrada/a.py": "import click\nclick.option('--a', envvar='A')"}, "sagrada.a:2 reads"),
        ({"wire/a.py": "import pickle"}, "wire.a imports pickle"),
        ({"worker/a.py": "accept_content = ['pickle']"}, "worker.a:1 names a pickle serializer"),
        ({"models/a.py": "import torch\ntorch.load('x')"}, "models.a:2 calls torch.load"),
        (
            {"models/a.py": "import habana_frameworks.torch", "models/b.py": "import habana_frameworks"},
            "habana_frameworks is imported by models.a, models.b",
        ),
    ],
)
def test_a_broken_rule_is_noticed(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert [said for said in violations(tmp_path) if complaint in said]


def test_what_is_allowed_is_not_complained_of(tmp_path: Path) -> None:
    files = {
        "worker/config.py": "import os\nx = os.environ",
        "worker/launcher.py": "import os\nx = dict(os.environ)",
        "worker/a.py": "import os, wire.job, celery\nfrom models.plan import Plan\nos.getpid()",
        "wire/job.py": "import msgspec",
        "models/plan.py": "import dataclasses",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert violations(tmp_path) == []


IMPORT_ALL = """
import importlib, sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise SystemExit(f"something imported {name}")

sys.meta_path.insert(0, Guard())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_no_process_but_the_engine_imports_torch() -> None:
    """Not even indirectly: every module of every room but the torch half of models, in a fresh interpreter."""
    names = [m.name for m in modules(ROOT) if m.room != "models" or m.name in TORCH_FREE]
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
