"""Which buckets to have: those that save the most expected seconds of padding, one after another.

The corners of both phases stand in one competition, so the gains themselves divide the budget between prefill and
decode. Whatever is chosen, the largest corner of each phase is: a plan can cost time, never miss a shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
from numpy.typing import NDArray

from models.cost import CostModel
from models.histogram import Shape
from models.plan import REFERENCE, Bucket, Limits, Phase, Plan, bucket_of, seconds

DEFAULT_GRAPHS = 64
"""Most buckets of a plan: where the padding saved by another bucket no longer pays for its warm-up."""

FEWEST_GRAPHS = 3
"""One bucket per phase."""

SCORE_SHARE = 16
"""One bucket in so many, but at least one, is for scoring: prompt log-probabilities are rare, and padding them costs
little beside the logits. They count as any other bucket does."""

MOST_SCORE = 4
"""Score buckets of the largest plan."""

OWN_TRAFFIC, SHIPPED_TRAFFIC, NO_TRAFFIC = 0.1, 0.5, 1.0
"""Share of the flat prior in the expected traffic, by where the histogram comes from. A plan for a histogram alone
may cost many times more on the same traffic with another seed; a tenth of prior costs a few percent of the gain."""

RUNGS = 96
"""Values of an axis that are candidates because they are spread evenly, on a logarithmic scale."""

QUANTILES = (64, 128)
"""Values of the x and of the y axis that are candidates because the expected traffic has them: blocks vary most."""

TRIES = 4
"""Buckets that would be missed least, for each of which a better one is sought after every addition."""

TIE = 1e-9
"""Relative difference below which gains are equal: the order of a sum must not choose the plan."""

WIDTHS, WIDER = 3, 4
"""Deterministic: contexts that decode steps have, and how many times wider each is than the one below. A step takes
sequences of one width only, so that many widths would leave most of its rows empty."""

COUNTED: tuple[Phase, ...] = ("prefill", "decode")
"""The phases that compete for the budget."""

Floats = NDArray[np.float64]
Traffic = Mapping[Shape, float]
"""Launches expected of each shape, in any unit."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan is to be good at."""

    limits: Limits
    costs: CostModel
    traffic: Traffic

    def seconds(self, shape: Shape) -> float:
        """Of a launch without padding."""
        return seconds(self.costs, self.limits, *shape)


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, and the way to it."""

    plan: Plan
    curve: tuple[tuple[int, float], ...]
    """(buckets, expected padding as a share of the work itself), from one bucket per phase to the plan's."""


def plan_buckets(
    limits: Limits,
    graphs: int = DEFAULT_GRAPHS,
    costs: CostModel = REFERENCE,
    histogram: Traffic | None = None,
    prior: float | None = None,
) -> Plan:
    """The plan of at most `graphs` buckets; ValueError if they are fewer than phases.

    `prior` is the share of traffic that is taken to be of any shape; by default a tenth, and all without a histogram.
    """
    return choose(outlook(limits, costs, histogram or {}, prior), graphs).plan


def affordable_graphs(warm_up: float, per_graph: float) -> int:
    """Buckets that so many seconds of warm-up suffice for, at least one per phase."""
    return max(FEWEST_GRAPHS, int(warm_up / per_graph))


def outlook(limits: Limits, costs: CostModel, histogram: Traffic, prior: float | None = None) -> Outlook:
    """Mix what was counted with what might come, by seconds of work; shapes that the limits exclude are left out."""
    seen = {s: float(n) for s, n in histogram.items() if s[0] != "score" and limits.feasible(*s)}
    share = NO_TRAFFIC if not seen else OWN_TRAFFIC if prior is None else prior
    mixed: dict[Shape, float] = {}
    for traffic, part in ((seen, 1 - share), (_any_shape(limits, costs), share)):
        work = sum(n * seconds(costs, limits, *shape) for shape, n in traffic.items())
        for shape, n in traffic.items():
            mixed[shape] = mixed.get(shape, 0.0) + part * n / work
    return Outlook(limits, costs, mixed)


def _any_shape(limits: Limits, costs: CostModel) -> dict[Shape, float]:
    """The flat prior: every feasible shape, evenly on logarithmic scales, weighed so that large ones do not dominate.

    Each point stands for the shapes below it down to its neighbours.
    """
    found: dict[Shape, float] = {}
    for phase in COUNTED:
        most_x, most_y = limits.most(phase)
        points: dict[Shape, float] = {
            (phase, x, y): width * height / seconds(costs, limits, phase, x, y)
            for x, width in _log_widths(_rungs(most_x))
            for y, height in _log_widths(_rungs(most_y))
            if limits.feasible(phase, x, y)
        }
        work = sum(n * seconds(costs, limits, *shape) for shape, n in points.items())
        found |= {shape: n / work for shape, n in points.items()}
    return found


def _rungs(top: int) -> list[int]:
    """1 to `top`: every integer, or some evenly spread on a logarithmic scale."""
    count = min(RUNGS, top)
    return sorted({round(top ** (i / (count - 1))) for i in range(count)}) if count > 1 else [top]


def _log_widths(rungs: list[int]) -> Iterator[tuple[int, float]]:
    """Each rung with the share of a logarithmic axis that lies between it and the one below."""
    for below, rung in pairwise([0, *rungs]):
        yield rung, math.log((rung + 0.5) / (below + 0.5))


def padding(plan: Plan, traffic: Traffic, *phases: Phase) -> float:
    """Seconds of padding per second of work of these phases (none given: of all) in the traffic, under the plan."""
    work = padded = 0.0
    for (phase, x, y), n in traffic.items():
        if not phases or phase in phases:
            work += n * seconds(plan.costs, plan.limits, phase, x, y)
            padded += n * plan.cost(plan.cheapest(phase, x, y))
    return padded / work - 1 if work else 0.0


def choose(view: Outlook, graphs: int) -> Choice:
    """Add the most useful corner, replace what is hardly missed by it, and so on until `graphs` are there.

    Each size starts from the one before: so a larger budget never gives a worse plan.
    """
    if graphs < FEWEST_GRAPHS:
        raise ValueError(
            f"a plan of {graphs} buckets is too small: give at least {FEWEST_GRAPHS}, one per phase"
        )
    score = _score_buckets(view.limits, min(MOST_SCORE, max(1, graphs // SCORE_SHARE)))
    fields = [_Field(view, phase) for phase in COUNTED]
    work = sum(n * view.seconds(shape) for shape, n in view.traffic.items())
    curve = [(len(score) + len(fields), _cost(fields) / work - 1)]
    while len(score) + sum(len(field.chosen) for field in fields) < graphs:
        field = max(fields, key=lambda each: each.best[0])
        gain, corner = field.best
        if gain <= TIE * work:
            break
        field.add(corner)
        _improve(fields, TIE * work)
        curve.append((len(score) + sum(len(each.chosen) for each in fields), _cost(fields) / work - 1))
    buckets = _in_turn(reversed(score), *(field.buckets(view.limits) for field in fields))
    return Choice(Plan(view.limits, tuple(buckets), view.costs), tuple(curve))


def _in_turn(*lists: Iterable[Bucket]) -> Iterator[Bucket]:
    """The first of each, the second of each, and so on: each list begins with what its phase cannot do without."""
    for row in zip_longest(*lists):
        yield from (bucket for bucket in row if bucket is not None)


def _score_buckets(limits: Limits, most: int) -> tuple[Bucket, ...]:
    """Whole chunks over contexts of the longest prompt, and of fractions of it."""
    query, longest = limits.most("score")
    least = limits.blocks_of(query)
    lengths = {max(least, round(least * (longest / least) ** ((i + 1) / most))) for i in range(most)}
    return tuple(bucket_of(limits, "score", query, blocks) for blocks in sorted(lengths))


def _cost(fields: list[_Field]) -> float:
    return sum(field.cost for field in fields)


def _improve(fields: list[_Field], enough: float) -> None:
    """Replace corners that are missed least by ones that save more, until none of them can be."""
    while any(
        _replaced(fields, loser, corner, loss, enough) for loss, loser, corner in _least_missed(fields)
    ):
        pass


def _least_missed(fields: list[_Field]) -> list[tuple[float, _Field, int]]:
    losses = [(loss, index, corner) for index, field in enumerate(fields) for corner, loss in field.losses()]
    return [(loss, fields[index], corner) for loss, index, corner in sorted(losses)[:TRIES]]


def _replaced(fields: list[_Field], loser: _Field, corner: int, loss: float, enough: float) -> bool:
    """Whether another corner was worth more than this one, and has taken its place."""
    loser.remove(corner)
    field = max(fields, key=lambda each: each.best[0])
    gain, better = field.best
    worth = gain > loss + enough
    if worth:
        field.add(better)
    else:
        loser.add(corner)
    return worth


class _Field:
    """One phase's candidates and the choice among them.

    Every corner is also the cell of shapes that round up to it, so that traffic is kept as one weight per cell.
    What each corner would save is kept exact: only cells whose bucket changed are looked at again.
    """

    def __init__(self, view: Outlook, phase: Phase) -> None:
        self.phase = phase
        shapes = {(x, y): n for (of, x, y), n in view.traffic.items() if of == phase}
        work = {shape: n * view.seconds((phase, *shape)) for shape, n in shapes.items()}
        xs, ys = _axes(view, phase, work)
        self._shape = len(xs), len(ys)
        self._x, self._y = (axis.ravel() for axis in np.meshgrid(xs, ys, indexing="ij"))
        self._costs = np.array(
            [view.seconds((phase, int(x), int(y))) for x, y in zip(self._x, self._y, strict=True)]
        )
        self._weights = np.zeros(len(self._x))
        for (x, y), n in shapes.items():
            self._weights[np.searchsorted(xs, x) * len(ys) + np.searchsorted(ys, y)] += n
        self._padded = np.full(len(self._x), self._costs[-1])
        self._gains = (self._costs[-1] - self._costs) * self._covered(np.arange(len(self._x)))
        self.chosen = [len(self._x) - 1]

    @property
    def cost(self) -> float:
        """Expected seconds under the chosen corners."""
        return float(self._weights @ self._padded)

    @property
    def best(self) -> tuple[float, int]:
        """The most that another corner would save, and the first corner that does."""
        most = float(self._gains.max())
        return most, int(np.argmax(self._gains >= most * (1 - TIE)))

    def add(self, corner: int) -> None:
        """Choose the corner: cells that are cheaper there move."""
        self.chosen.append(corner)
        cells = np.flatnonzero(self._below(corner) & (self._costs[corner] < self._padded))
        self._move(cells, np.full(len(cells), self._costs[corner]))

    def remove(self, corner: int) -> None:
        """Give the corner up: its cells move to the cheapest that is left."""
        self.chosen.remove(corner)
        cells = np.flatnonzero(self._below(corner) & (self._padded == self._costs[corner]))
        self._move(cells, self._offers(cells).min(axis=0))

    def losses(self) -> list[tuple[int, float]]:
        """Each chosen corner but the largest with the seconds that its removal would cost."""
        # The others are at home in the largest alone.
        cells = np.flatnonzero(self._weights * (self._padded < self._costs[-1]))
        if not len(cells):
            return []
        offers = self._offers(cells)
        first, second = np.partition(offers, 1, axis=0)[:2]
        only = (offers == first) @ (self._weights[cells] * (second - first))
        return [(corner, float(loss)) for corner, loss in zip(self.chosen[1:], only[1:], strict=True)]

    def buckets(self, limits: Limits) -> Iterator[Bucket]:
        """The chosen corners: the largest, then as they were chosen."""
        for corner in self.chosen:
            yield bucket_of(limits, self.phase, int(self._x[corner]), int(self._y[corner]))

    def _offers(self, cells: NDArray[np.int64]) -> Floats:
        """What each chosen corner asks for each of the cells, [chosen, cells]; infinite where it does not cover."""
        corners = np.array(self.chosen)[:, None]
        covers = (self._x[cells] <= self._x[corners]) & (self._y[cells] <= self._y[corners])
        return np.where(covers, self._costs[self.chosen, None], np.inf)

    def _below(self, corner: int) -> NDArray[np.bool_]:
        """Which cells the corner covers."""
        below: NDArray[np.bool_] = (self._x <= self._x[corner]) & (self._y <= self._y[corner])
        return below

    def _move(self, cells: NDArray[np.int64], padded: Floats) -> None:
        """The cells cost this from now on: what every corner that covers them would save changes.

        Cells that move from one cost to another together are looked at together.
        """
        moves, group = np.unique((self._padded[cells], padded), axis=1, return_inverse=True)
        self._padded[cells] = padded
        for index, (before, after) in enumerate(moves.T):
            change = np.maximum(after - self._costs, 0.0) - np.maximum(before - self._costs, 0.0)
            self._gains += change * self._covered(cells[group == index])

    def _covered(self, cells: NDArray[np.int64]) -> Floats:
        """The weight of those of the cells that each corner covers."""
        weights = np.zeros_like(self._weights)
        weights[cells] = self._weights[cells]
        covered: Floats = weights.reshape(self._shape).cumsum(axis=0).cumsum(axis=1).ravel()
        return covered


def _axes(
    view: Outlook, phase: Phase, work: Mapping[tuple[int, int], float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The candidates of the two axes."""
    most_x, most_y = view.limits.most(phase)
    if phase == "decode" and view.limits.deterministic:
        widths = {-(-most_y // WIDER**step) for step in range(WIDTHS)}
        return np.array([most_x]), np.array(sorted(widths))
    step = 1 if phase == "decode" else view.costs.machine.query_step
    return (
        _candidates(_marginal(work, 0), QUANTILES[0], most_x, step),
        _candidates(_marginal(work, 1), QUANTILES[1], most_y, 1),
    )


def _marginal(work: Mapping[tuple[int, int], float], axis: int) -> dict[int, float]:
    """The work at each value of one axis."""
    found: dict[int, float] = {}
    for shape, n in work.items():
        found[shape[axis]] = found.get(shape[axis], 0.0) + n
    return found


def _candidates(work: Mapping[int, float], count: int, top: int, step: int) -> NDArray[np.int64]:
    """Values of an axis for buckets, ascending: spread ones and those of the work, rounded up to the step."""
    values = np.array(sorted(work), dtype=np.int64)
    total = np.cumsum([work[int(value)] for value in values])
    at = np.searchsorted(total, total[-1] * np.arange(1, count + 1) / count * (1 - TIE))
    wanted = np.concatenate((values[at], np.array(_rungs(top), dtype=np.int64)))
    return np.unique(np.minimum(-(-wanted // step) * step, top))
