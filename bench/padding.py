"""What padding costs: our plans beside the buckets of vLLM's Gaudi plugin and of TGI, on simulated traffic.

    python -m bench.padding --requests 1000

No device and no model: launches are shapes, seconds are models/cost.py's. Plans are made from one seed's traffic and
scored on another's. *Waste* is padding per second of work; *less* is the share of the exponential buckets' padding
that a plan saves on the same launches. A launch without a bucket is a *miss*: vLLM compiles it while it serves.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench import peers
from bench.peers import BLOCK, Peer, Server
from bench.traffic import Launches, launches, trace
from models.cost import EIGHT_BILLION, MACHINES, CostModel
from models.histogram import Shape
from models.plan import Limits, Plan, seconds
from models.planner import SHIPPED_TRAFFIC, plan_buckets

MEMORY = {"gaudi2": 96e9, "gaudi3": 128e9}
"""Bytes of each card's memory; 0.9 of it less the weights, and 0.9 of that, is KV cache, as vLLM divides it."""

SCENES = (
    ("sharegpt", 0.7),
    ("sharegpt", 1.0),
    ("rag", 0.7),
    ("rag", 1.0),
    ("chat", 0.7),
    ("chat", 1.0),
    ("light", 0.02),
)
"""(traffic, share of the rate that saturates the server)."""

PLANNED, SCORED = 1, 2
"""Seeds."""


@dataclass(frozen=True)
class Case:
    """A machine, a model length, and all launches that were simulated for them."""

    costs: CostModel
    limits: Limits
    server: Server
    seen: Mapping[tuple[str, float], Launches]
    """By scene, of the seed that plans are made from."""
    scored: Mapping[tuple[str, float], Launches]


def case_of(machine: str, length: int, requests: int, budget: int = 2048) -> Case:
    """Simulate both seeds of every scene."""
    costs = CostModel(MACHINES[machine], EIGHT_BILLION)
    block = EIGHT_BILLION.kv_bytes * BLOCK
    physical = int((MEMORY[machine] * 0.9 - EIGHT_BILLION.weight_bytes) * 0.9 / block)
    limits = Limits(
        slots=64,
        block_size=BLOCK,
        num_blocks=physical + 1,
        max_input_tokens=length - 1,
        max_total_tokens=length,
        prefill_chunk=budget,
        prefill_batch=4,
        layout="flat",
    )
    seen, scored = (
        {
            (name, load): launches(trace(name, seed, requests, load, limits, costs), limits, costs)
            for name, load in SCENES
        }
        for seed in (PLANNED, SCORED)
    )
    return Case(costs, limits, Server(limits.slots, length, budget, physical), seen, scored)


def histogram(case: Case, scenes: Iterable[tuple[str, float]]) -> dict[Shape, float]:
    """What a server would have counted of these scenes, each with the same seconds of work."""
    mixed: dict[Shape, float] = {}
    for scene in scenes:
        shapes = _shapes(case, case.seen[scene])
        work = sum(n * seconds(case.costs, case.limits, *shape) for shape, n in shapes.items())
        for shape, n in shapes.items():
            mixed[shape] = mixed.get(shape, 0.0) + n / work
    return mixed


def _shapes(case: Case, seen: Launches) -> dict[Shape, int]:
    shapes: dict[Shape, int] = {}
    for (tokens, start), n in seen.prefill.items():
        shape: Shape = ("prefill", tokens, case.limits.blocks_of(start + tokens))
        shapes[shape] = shapes.get(shape, 0) + n
    return shapes | {("decode", *shape): n for shape, n in seen.decode.items()}


@dataclass(frozen=True)
class Score:
    """Seconds over all launches of a scene."""

    work: float
    padding: float
    misses: int = 0

    @property
    def waste(self) -> float:
        return 100 * self.padding / self.work

    def less_than(self, other: Score) -> float:
        """Per cent of the other's padding that this one saves."""
        return 100 * (1 - self.padding / other.padding)


def score_plan(plan: Plan, case: Case, scene: tuple[str, float]) -> Score:
    """The plan on a scene's launches; a miss would be an OutsidePlan."""
    work = padded = 0.0
    for shape, n in _shapes(case, case.scored[scene]).items():
        work += n * seconds(case.costs, case.limits, *shape)
        padded += n * seconds(case.costs, case.limits, shape[0], *_axes(plan, shape))
    return Score(work, padded - work)


def _axes(plan: Plan, shape: Shape) -> tuple[int, int]:
    bucket = plan.cheapest(*shape)
    return bucket.x, bucket.blocks


def score_vllm(peer: Peer, case: Case, scene: tuple[str, float]) -> Score:
    """vLLM's buckets on the same launches: a query bucket's own tokens are context of that launch as well."""
    work = padded = 0.0
    misses = 0
    launched = case.scored[scene]
    for (tokens, start), n in launched.prefill.items():
        before = case.limits.blocks_of(start)
        query, context = peers.first_covering(peer.prefill, (tokens, before)) or (
            min(peers.fallback(tokens, 32), case.server.budget),
            peers.fallback(before, 32),
        )
        misses += n * (peers.first_covering(peer.prefill, (tokens, before)) is None)
        work += n * seconds(case.costs, case.limits, "prefill", tokens, case.limits.blocks_of(start + tokens))
        blocks = context + case.limits.blocks_of(query)
        padded += n * seconds(case.costs, case.limits, "prefill", query, blocks)
    for shape, n in launched.decode.items():
        found = peers.first_covering(peer.decode, shape)
        misses += n * (found is None)
        rows, blocks = found or (peers.fallback(shape[0], 2), peers.fallback(shape[1], 32))
        work += n * seconds(case.costs, case.limits, "decode", *shape)
        padded += n * seconds(case.costs, case.limits, "decode", rows, blocks)
    return Score(work, padded - work, misses)


def score_tgi(peer: Peer, case: Case, scene: tuple[str, float]) -> Score:
    """TGI's buckets on the same decode launches and on whole prompts, each alone: neither is worse than it would do."""
    work = padded = 0.0
    for tokens, n in case.scored[scene].prompts.items():
        blocks = case.limits.blocks_of(tokens)
        query = min(length for rows, length in peer.prefill if length >= tokens)
        work += n * seconds(case.costs, case.limits, "prefill", tokens, blocks)
        padded += n * seconds(case.costs, case.limits, "prefill", query, case.limits.blocks_of(query))
    for shape, n in case.scored[scene].decode.items():
        rows, blocks = peers.cheapest_covering(peer.decode, shape)
        work += n * seconds(case.costs, case.limits, "decode", *shape)
        padded += n * seconds(case.costs, case.limits, "decode", rows, blocks)
    return Score(work, padded - work)


COLUMNS = ("exp", "lin", "pad", "TGI", "N", "N/2", "N/4", "mixed", "unseen", "none")


def rows_of(case: Case) -> Iterable[tuple[tuple[str, float], dict[str, Score]]]:
    """Every scene with the score of every peer and of our plans for it."""
    vllm = {"exp": peers.exponential, "lin": peers.linear, "pad": peers.padding_aware}
    made = {name: make(case.server) for name, make in vllm.items()}
    tgi = peers.tgi(case.server, case.server.length - 1, case.server.length)
    graphs = len(made["exp"])
    mixed = _planned(case, graphs, SCENES)
    none = plan_buckets(case.limits, graphs, case.costs)
    for scene in SCENES:
        others = [other for other in SCENES if other[0] != scene[0]]
        scores = {name: score_vllm(peer, case, scene) for name, peer in made.items()}
        scores["TGI"] = score_tgi(tgi, case, scene)
        for name, count in (("N", graphs), ("N/2", graphs // 2), ("N/4", graphs // 4)):
            scores[name] = score_plan(_planned(case, count, [scene]), case, scene)
        scores["mixed"] = score_plan(mixed, case, scene)
        scores["unseen"] = score_plan(_planned(case, graphs, others, SHIPPED_TRAFFIC), case, scene)
        scores["none"] = score_plan(none, case, scene)
        yield scene, scores


def _planned(
    case: Case, graphs: int, scenes: Iterable[tuple[str, float]], prior: float | None = None
) -> Plan:
    return plan_buckets(case.limits, graphs, case.costs, histogram(case, scenes), prior)


def main() -> None:
    """Simulate, plan, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1000, help="of each scene and seed")
    parser.add_argument("--machines", nargs="+", default=["gaudi2", "gaudi3"], choices=list(MEMORY))
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 32768])
    options = parser.parse_args()
    less: dict[str, list[float]] = {name: [] for name in COLUMNS[1:] if name != "TGI"}
    print(
        "waste %: exp lin pad TGI; then per cent less padding than exp: lin, pad, and ours with N, N/2, N/4 graphs,"
    )
    for machine in options.machines:
        for length in options.lengths:
            case = case_of(machine, length, options.requests)
            graphs = len(peers.exponential(case.server))
            print(f"\n{machine}, {length} tokens, N = {graphs}")
            for (name, load), scores in rows_of(case):
                base = scores["exp"]
                waste = " ".join(f"{scores[each].waste:6.2f}" for each in COLUMNS)
                saved = {each: scores[each].less_than(base) for each in less}
                for each, value in saved.items():
                    less[each].append(value)
                misses = sum(scores[each].misses for each in ("exp", "lin", "pad"))
                print(
                    f"{name:9}@{load:4.2f} {waste} | {' '.join(f'{v:6.1f}' for v in saved.values())} | {misses}"
                )
    print("\nper cent less than exp, min / median / max")
    for each, values in less.items():
        print(f"{each:7} {min(values):7.1f} {statistics.median(values):7.1f} {max(values):7.1f}")


if __name__ == "__main__":
    main()
