"""Prometheus' text format, small enough to write by hand."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[dict[str, str], float]
"""Labels and value."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def family(name: str, kind: str, help: str, samples: Iterable[Sample]) -> str:
    """One metric with all of its samples; nothing where there are none."""
    lines = [f"{name}{_labels(labels)} {value:.17g}" for labels, value in samples]
    if not lines:
        return ""
    return "\n".join([f"# HELP {name} {help}", f"# TYPE {name} {kind}", *lines, ""])


def _labels(labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels.items())
    return f"{{{inner}}}" if inner else ""


class Requests:
    """Requests answered by this process, by route and HTTP status."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def count(self, route: str, status: int) -> None:
        """One more."""
        with self._lock:
            self._counts[route, status] += 1

    def samples(self) -> list[Sample]:
        """All counts so far."""
        with self._lock:
            counts = sorted(self._counts.items())
        return [({"route": route, "status": str(status)}, n) for (route, status), n in counts]
