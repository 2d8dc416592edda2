"""What a figure was measured on, and how figures are printed."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def hardware(*packages: str) -> str:
    """Two lines: the machine and how busy it is, then Python and the versions of these packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    names = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{platform.platform()}, {cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n"
        f"Python {platform.python_version()}, {names}"
    )


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and quartiles."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return f"{middle:.{digits}f} [{low:.{digits}f} … {high:.{digits}f}]"
