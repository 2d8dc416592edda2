"""4 and 7: what the CPU does instead, and how it is counted."""

from __future__ import annotations

import pytest
import torch
from habana_frameworks.stand_in import LEDGER, Unsealed
from habana_frameworks.torch.hpu.metrics import (
    MetricNotFound,
    metric_global,
    metric_localcontext,
)


def fallbacks() -> dict[str, int]:
    metric = metric_global("cpu_fallback")
    assert metric is not None
    return dict(metric.stats()[1][1])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: x.nonzero(), "aten::nonzero"),
        (lambda x: x.masked_select(x > 1), "aten::masked_select"),
        (lambda x: x[x > 1], "aten::nonzero"),
        (lambda x: torch.unique(x), "aten::_unique2"),
        (lambda x: torch.bincount(x.int()), "aten::bincount"),
    ],
)
def test_an_operation_whose_shape_is_in_its_values_falls_back(call: object, name: str) -> None:
    assert callable(call)
    x = torch.arange(4.0).to("hpu")
    before = fallbacks().get(name, 0)
    assert call(x).device.type == "hpu"
    assert fallbacks()[name] == before + 1
    with LEDGER.sealed(), pytest.raises(Unsealed):
        call(x)


def test_stats_are_pairs() -> None:
    compilation = metric_global("graph_compilation")
    assert compilation is not None
    assert [tag for tag, _ in compilation.stats()] == ["TotalNumber", "TotalTime", "AvgTime"]


def test_details_are_given_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PT_HPU_METRICS_GC_DETAILS", "1")
    compilation = metric_global("graph_compilation")
    assert compilation is not None
    tags = dict(compilation.stats())
    assert len(tags["recipe"]) >= tags["TotalNumber"]


def test_a_context_counts_by_itself() -> None:
    with metric_localcontext("cpu_fallback") as inner:
        torch.ones(2, device="hpu").nonzero()
    torch.ones(2, device="hpu").nonzero()
    assert dict(inner.stats())["TotalNumber"] == 1


def test_unknown_names() -> None:
    assert metric_global("graphs") is None
    assert metric_global("recipe_cache") is None  # without PT_HPU_ENABLE_CACHE_METRICS
    with pytest.raises(MetricNotFound), metric_localcontext("graphs"):
        pass


def test_a_metric_can_be_stopped_and_reset() -> None:
    metric = metric_global("cpu_fallback")
    assert metric is not None
    metric.stop()
    before = metric.stats()
    torch.ones(2, device="hpu").nonzero()
    assert metric.stats() == before
    metric.start()
    torch.ones(2, device="hpu").nonzero()
    assert metric.stats() != before
    metric.reset()
    assert metric.stats() == [("TotalNumber", 0), ("FallbackOps", {})]
