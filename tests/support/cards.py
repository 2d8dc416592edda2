"""Drivers' tools that a test puts on PATH: strict about how they are called, and they say what the test wrote down."""

from __future__ import annotations

import os
from pathlib import Path

HL_SMI = "-Q index,module_id,bus_id,memory.used,temperature.aip,name -f csv,noheader"
NVIDIA_SMI = "--query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits"

GAUDI_2 = """\
0, 3, 0000:33:00.0, 768 MiB, 27 C, HL-225
1, 0, 0000:19:00.0, 768 MiB, 26 C, HL-225
2, 1, 0000:1a:00.0, 92160 MiB, 41 C, HL-225
3, 2, 0000:34:00.0, 768 MiB, 28 C, HL-225
4, 6, 0000:b3:00.0, 768 MiB, 27 C, HL-225
5, 7, 0000:b4:00.0, 768 MiB, 25 C, HL-225
6, 5, 0000:cd:00.0, 768 MiB, 26 C, HL-225
7, 4, 0000:cc:00.0, 768 MiB, 27 C, HL-225
"""
"""Eight cards, whose indices are not their modules' ids; somebody computes on module 1."""
TWO_GAUDI_3 = """\
0, 1, 0000:1a:00.0, 672 MiB, 31 C, HL-325L
1, 0, 0000:19:00.0, 672 MiB, 30 C, HL-325L
"""
TWO_GPUS = """\
0, GPU-5f1c9a52-3b0e-7c55-9d0a-0f6f4f9f2a11, NVIDIA H100 80GB HBM3, 81559
1, GPU-0b6d8f3e-91aa-4e0c-8a52-77f1f1d6f1c2, NVIDIA H100 80GB HBM3, 81559
"""


class Tool:
    """A stand-in for hl-smi or nvidia-smi."""

    def __init__(self, folder: Path, name: str, query: str, driver_query: str) -> None:
        self.folder, self._name = folder / f"{name}.d", name
        self.folder.mkdir(parents=True)
        script = folder / name
        script.write_text(
            f'#!/bin/sh\nsaid="{self.folder}"\n[ -f "$said/broken" ] && {{ /bin/cat "$said/broken"; exit 9; }}\n'
            f'case "$*" in\n  "{query}") /bin/cat "$said/cards" ;;\n  "{driver_query}") /bin/cat "$said/driver" ;;\n'
            f'  *) echo "{name}: what is $* ?" >&2; exit 2 ;;\nesac\n'
        )
        script.chmod(0o755)

    def says(self, cards: str, driver: str = "") -> None:
        """What it answers from now on."""
        (self.folder / "cards").write_text(cards)
        (self.folder / "driver").write_text(driver)

    def breaks(self, sentence: str) -> None:
        """It fails with this sentence from now on."""
        (self.folder / "broken").write_text(sentence + "\n")


def hl_smi(folder: Path, cards: str, driver: str = "1.24.1-5a9c3f1\n") -> Tool:
    """A folder for PATH with an hl-smi."""
    tool = Tool(folder, "hl-smi", HL_SMI, "-Q driver_version -f csv,noheader")
    tool.says(cards, driver)
    return tool


def nvidia_smi(folder: Path, cards: str, driver: str = "570.86.15\n570.86.15\n") -> Tool:
    """A folder for PATH with an nvidia-smi."""
    tool = Tool(folder, "nvidia-smi", NVIDIA_SMI, "--query-gpu=driver_version --format=csv,noheader")
    tool.says(cards, driver)
    return tool


def first_on_path(folder: Path) -> str:
    """PATH with the folder before all others."""
    return f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
