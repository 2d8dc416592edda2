"""Prometheus' text format, of the fleet's totals and of what is measured now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from wire.metrics import LIMIT, METRICS, Metric, Scope, steps
from wire.totals import Total

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = dict[str, str]
Sample = tuple[Labels, float]
"""Labels and value."""

SCOPES: tuple[Scope, ...] = ("fleet", "model", "worker")
"""By how many labels they have."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
INFINITE = float("inf")


def family(name: str, kind: str, help: str, samples: Iterable[Sample]) -> str:
    """One metric with all of its samples; nothing where there are none."""
    return _family(name, kind, help, (_line(name, labels, value) for labels, value in samples))


def _family(name: str, kind: str, help: str, lines: Iterable[str]) -> str:
    found = list(lines)
    return "\n".join([f"# HELP {name} {help}", f"# TYPE {name} {kind}", *found, ""]) if found else ""


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value:.17g}" if inner else f"{name} {value:.17g}"


def counted(totals: Sequence[Total]) -> str:
    """Every counter and histogram of the table, for all that was counted and all that is to be seen from the start."""
    found = [(total.scope, _by_metric(total)) for total in totals]
    families: dict[str, list[str]] = {}
    of: dict[str, Metric] = {}
    for metric in METRICS:
        of.setdefault(metric.name, metric)
        lines = families.setdefault(metric.name, [])
        for scope, values in found:
            if SCOPES[len(scope)] == metric.scope:
                bounds = _bounds(metric, values.get(LIMIT, {}))
                lines += _lines(metric, scope, values.get(metric.name, {}), bounds)
    return "".join(_family(name, of[name].kind, of[name].help, lines) for name, lines in families.items())


def _by_metric(total: Total) -> dict[str, dict[str, dict[str, float]]]:
    """Name → its own labels, as a field writes them → of a histogram le or sum, of a counter nothing → value."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for field, value in total.values.items():
        name, *labels = field.split("|")
        last = labels.pop() if labels and (labels[-1] == "sum" or labels[-1].startswith("le=")) else ""
        found[name]["|".join(labels)][last] = value
    return found


def _bounds(metric: Metric, limits: Iterable[str]) -> set[float]:
    """Of all buckets that are to be seen: those of every limit that a worker has had."""
    given = (limit.split("=") for limit in limits)
    return {*metric.bounds, *(bound for name, n in given if name == metric.limit for bound in steps(int(n)))}


def _lines(
    metric: Metric, scope: tuple[str, ...], values: Mapping[str, Mapping[str, float]], bounds: set[float]
) -> Iterable[str]:
    outer = dict(zip(("model", "worker"), scope, strict=False))
    for own in dict.fromkeys((*metric.labels, *values)):
        labels = outer | dict(part.split("=", 1) for part in own.split("|") if part)
        parts = values.get(own, {})
        if metric.kind == "counter":
            yield _line(metric.name, labels, parts.get("", 0))
        else:
            yield from _histogram(metric.name, labels, parts, bounds)


def _histogram(name: str, labels: Labels, parts: Mapping[str, float], bounds: set[float]) -> Iterable[str]:
    fell = {float(part[3:]): n for part, n in parts.items() if part.startswith("le=")}
    below = 0.0
    for bound in sorted({*bounds, *fell, INFINITE}):
        below += fell.get(bound, 0)
        le = "+Inf" if bound == INFINITE else repr(bound)
        yield _line(f"{name}_bucket", labels | {"le": le}, below)
    yield _line(f"{name}_sum", labels, parts.get("sum", 0))
    yield _line(f"{name}_count", labels, below)
