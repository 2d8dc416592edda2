"""What was compiled and what fell back, by name."""

from __future__ import annotations

import json
from pathlib import Path

from ...stand_in.metrics import GLOBAL, Metric
from ...stand_in.metrics import MetricNotFound as MetricNotFound
from ...stand_in.metrics import local as metric_localcontext

__all__ = ["MetricNotFound", "metric_global", "metric_localcontext", "metrics_dump"]


def metric_global(name: str) -> Metric | None:
    """The count since the start; None for a name that there is not."""
    return GLOBAL.get(name)


def metrics_dump(file: str, format: str = "json") -> None:
    """Write all global counts into a file, as json or text."""
    counts = {name: dict(metric.stats()) for name, metric in GLOBAL.items()}
    text = (
        json.dumps(counts)
        if format == "json"
        else "\n".join(f"{name}: {pairs}" for name, pairs in counts.items())
    )
    Path(file).write_text(text)
