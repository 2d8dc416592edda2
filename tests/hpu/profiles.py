"""The two machines that the stand-in plays, and how a process is started on one of them.

A process has one for its life: the plugin is latched when it is imported, and torch's device is named once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in"
WITHIN = 600.0
"""Seconds for any process: nothing takes so long when all is well."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A release of Intel's software in a mode that it has."""

    name: str
    release: str
    """Which metadata of `habana-torch-plugin` is installed."""
    lazy: bool
    torch: str
    """Of an image of that release. Another runs here."""

    def environment(self, **more: str) -> dict[str, str]:
        """This process's environment with the plugin in it, and what else is given."""
        path = [str(ROOT), str(STAND_IN), str(STAND_IN / "releases" / self.release)]
        said = {"PYTHONPATH": os.pathsep.join(path), "PT_HPU_LAZY_MODE": str(int(self.lazy))}
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HLS_", "HABANA_", "PT_"))
        }
        # optimum-habana asks the pip on PATH which plugin is installed.
        path_of_tools = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        }
        return kept | said | path_of_tools | {"OMP_NUM_THREADS": "1"} | more

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Python with these arguments on that machine, to its end."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=WITHIN,
        )

    def __str__(self) -> str:
        return self.name


LAZY = Profile("lazy", "1.22", lazy=True, torch="2.7.1+hpu")
COMPILE = Profile("compile", "1.24", lazy=False, torch="2.11.0")
PROFILES = (LAZY, COMPILE)
