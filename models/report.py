"""A plan in words: what `plan` prints, and the same as a dictionary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from textwrap import wrap
from typing import Any

from models.checkpoint import Checkpoint
from models.histogram import Shape
from models.plan import PHASES, Bucket, Phase, Plan
from models.planner import Choice, Outlook, padding

WIDTH = 112
"""Columns of the page."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is told of a plan."""

    model_id: str
    checkpoint: Checkpoint
    choice: Choice
    outlook: Outlook
    launches: int
    """Of the histogram that this plan can be asked for; 0: there was none."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.choice.plan

    @property
    def kv_bytes(self) -> int:
        """Of the pool, scratch included."""
        limits = self.plan.limits
        return limits.num_blocks * limits.block_size * self.checkpoint.shape.kv_bytes

    @property
    def warm_up(self) -> float:
        """Seconds."""
        return len(self.plan) * self.plan.costs.machine.graph

    def padding(self, phase: Phase) -> float | None:
        """Expected padding per second of work; None for score, of which no traffic is counted."""
        return None if phase == "score" else padding(self.plan, self.outlook.traffic, phase)


def as_text(report: Report) -> str:
    """The report as a page."""
    plan, shape, limits = report.plan, report.checkpoint.shape, report.plan.limits
    weights = f"{shape.weight_bytes / 2**30:.2f} GiB of weights"
    counted = "" if report.checkpoint.exact else ", estimated from config.json"
    traffic = (
        f"{report.launches} launches of the histogram" if report.launches else "none known: any shape, evenly"
    )
    lines = [
        f"{len(plan)} buckets for {report.model_id} on {plan.costs.machine.name}, digest {plan.digest}",
        "",
        f"  model     {shape.parameters / 1e6:.1f} M parameters{counted}: {weights}",
        f"  limits    {limits.slots} sequences; {limits.max_input_tokens} prompt tokens, {limits.max_total_tokens} "
        "with the output",
        f"            prefill of {limits.prefill_chunk} tokens of {limits.prefill_batch} prompts a step; "
        f"{limits.layout} decode",
        f"  KV cache  {limits.num_blocks} blocks of {limits.block_size} tokens: {report.kv_bytes / 2**30:.2f} GiB",
        f"  traffic   {traffic}",
        f"  padding   {_percent(padding(plan, report.outlook.traffic))} of the work expected; {_curve(report.choice)}",
        f"  warm-up   about {report.warm_up:.0f} s, at {plan.costs.machine.graph:g} s a bucket",
        "",
        "phase    buckets  padding  tokens x context blocks (decode: rows x blocks)",
    ]
    for phase in PHASES:
        lines += _phase_lines(report, phase)
    return "\n".join(line.rstrip() for line in lines)


def as_dict(report: Report) -> dict[str, Any]:
    """The report for a program: bytes, seconds, padding per second of work."""
    plan = report.plan
    return {
        "model_id": report.model_id,
        "device": plan.costs.machine.name,
        "digest": plan.digest,
        "limits": asdict(plan.limits),
        "parameters": report.checkpoint.shape.parameters,
        "weight_bytes": report.checkpoint.shape.weight_bytes,
        "kv_bytes": report.kv_bytes,
        "launches": report.launches,
        "padding": {phase: share for phase in PHASES if (share := report.padding(phase)) is not None},
        "warm_up_seconds": report.warm_up,
        "buckets": [asdict(bucket) for bucket in _ordered(plan)],
        "curve": report.choice.curve,
    }


def in_reach(plan: Plan, shapes: dict[Shape, int]) -> int:
    """Launches of the histogram whose shapes the limits allow."""
    return sum(count for shape, count in shapes.items() if plan.limits.feasible(*shape))


def _phase_lines(report: Report, phase: Phase) -> Iterator[str]:
    buckets = [bucket for bucket in _ordered(report.plan) if bucket.phase == phase]
    share = report.padding(phase)
    groups = [
        f"{x} x {','.join(str(bucket.blocks) for bucket in same)}"
        for x, same in groupby(buckets, key=lambda b: b.x)
    ]
    head = f"{phase:8} {len(buckets):7}  {'-' if share is None else _percent(share):>7}  "
    yield from wrap("; ".join(groups), WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _ordered(plan: Plan) -> list[Bucket]:
    return sorted(plan.buckets, key=lambda bucket: (PHASES.index(bucket.phase), bucket.x, bucket.blocks))


def _curve(choice: Choice) -> str:
    """The padding at a quarter and a half of the budget, for those who wonder about another."""
    known = dict(choice.curve)
    wanted = [count for part in (4, 2) if (count := choice.curve[-1][0] // part) in known]
    return (
        ", ".join(f"{_percent(known[count])} with {count} buckets" for count in wanted)
        or "no fewer buckets would do"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
