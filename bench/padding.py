"""What padding costs: our plans beside the buckets of vLLM's Gaudi plugin and of TGI, on simulated traffic.

    python -m bench.padding --requests 1000

No device and no model: launches are shapes, seconds are models/cost.py's. Plans are made from one seed's traffic and
scored on another's. *Waste* is padding per second of work; *less* is the share of the exponential buckets' padding
that a plan saves on the same launches. A launch without a bucket is a *miss*: vLLM compiles it while it serves.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench import peers
from bench.peers import BLOCK, Peer, Server
from bench.traffic import Launches, launches, trace
from models import picture
from models.cost import EIGHT_BILLION, MACHINES, CostModel
from models.histogram import Shape
from models.plan import Limits, Plan, seconds
from models.planner import SHIPPED_TRAFFIC, plan_buckets

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

STEPS = (128, 32)
"""Tokens that a prefill bucket is a multiple of: the tile of Gaudi's matrix engine, and what it may reward."""

GRAPHS = (8, 16, 32, 64, 128, 256)
"""Buckets of the plans on the curve."""

Scene = tuple[str, float]


@dataclass(frozen=True)
class Case:
    """A machine, a model length, and all launches that were simulated for them."""

    costs: CostModel
    limits: Limits
    server: Server
    seen: Mapping[Scene, Launches]
    """By scene, of the seed that plans are made from."""
    scored: Mapping[Scene, Launches]


def case_of(machine: str, length: int, requests: int, budget: int = 2048) -> Case:
    """Simulate both seeds of every scene."""
    costs = CostModel(MACHINES[machine], EIGHT_BILLION)
    block = EIGHT_BILLION.kv_bytes * BLOCK
    # As vLLM divides a card's memory: 0.9 of it less the weights, and 0.9 of that.
    physical = int((costs.machine.memory * 0.9 - EIGHT_BILLION.weight_bytes) * 0.9 / block)
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


def histogram(case: Case, scenes: Iterable[Scene]) -> dict[Shape, float]:
    """What a server would have counted of these scenes, each with the same seconds of work."""
    mixed: dict[Shape, float] = {}
    for scene in scenes:
        counted = shapes(case, case.seen[scene])
        work = sum(n * seconds(case.costs, case.limits, *shape) for shape, n in counted.items())
        for shape, n in counted.items():
            mixed[shape] = mixed.get(shape, 0.0) + n / work
    return mixed


def shapes(case: Case, seen: Launches) -> dict[Shape, int]:
    counted: dict[Shape, int] = {}
    for (tokens, start), n in seen.prefill.items():
        shape: Shape = ("prefill", tokens, case.limits.blocks_of(start + tokens))
        counted[shape] = counted.get(shape, 0) + n
    return counted | {("decode", *shape): n for shape, n in seen.decode.items()}


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


def score_plan(plan: Plan, case: Case, scene: Scene) -> Score:
    """The plan on a scene's launches; a miss would be an OutsidePlan."""
    work = padded = 0.0
    for shape, n in shapes(case, case.scored[scene]).items():
        work += n * seconds(case.costs, case.limits, *shape)
        padded += n * seconds(case.costs, case.limits, shape[0], *_axes(plan, shape))
    return Score(work, padded - work)


def _axes(plan: Plan, shape: Shape) -> tuple[int, int]:
    bucket = plan.cheapest(*shape)
    return bucket.x, bucket.blocks


def score_vllm(peer: Peer, case: Case, scene: Scene) -> Score:
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


def score_tgi(peer: Peer, case: Case, scene: Scene) -> Score:
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


OURS = ("N", "N/2", "N/4", "mixed", "unseen", "none")
"""Our plans: of the scene's own traffic with as many buckets as the exponential ones, half, a quarter; and with as
many, of all scenes at once, of the other kinds of traffic only, of no histogram."""

PEERS = ("exp", "lin", "pad", "TGI")


def rows_of(case: Case) -> Iterator[tuple[Scene, dict[str, Score]]]:
    """Every scene with the score of every peer and of our plans for it."""
    vllm = {"exp": peers.exponential, "lin": peers.linear, "pad": peers.padding_aware}
    made = {name: make(case.server) for name, make in vllm.items()}
    tgi = peers.tgi(case.server, case.server.length - 1, case.server.length)
    graphs = len(made["exp"])
    mixed, none = planned(case, graphs, SCENES), plan_buckets(case.limits, graphs, case.costs)
    for scene in SCENES:
        others = [other for other in SCENES if other[0] != scene[0]]
        plans = {
            "N": planned(case, graphs, [scene]),
            "N/2": planned(case, graphs // 2, [scene]),
            "N/4": planned(case, graphs // 4, [scene]),
            "mixed": mixed,
            "unseen": planned(case, graphs, others, SHIPPED_TRAFFIC),
            "none": none,
        }
        scores = {name: score_vllm(peer, case, scene) for name, peer in made.items()}
        scores["TGI"] = score_tgi(tgi, case, scene)
        yield scene, scores | {name: score_plan(plan, case, scene) for name, plan in plans.items()}


def planned(case: Case, graphs: int, scenes: Iterable[Scene], prior: float | None = None) -> Plan:
    """Our plan for what the scenes' first seed showed; its score buckets are among the `graphs`."""
    return plan_buckets(case.limits, graphs, case.costs, histogram(case, scenes), prior)


def with_step(case: Case, step: int) -> Case:
    """The same launches, planned for a device that rewards queries of any multiple of `step` tokens."""
    return replace(case, costs=replace(case.costs, machine=replace(case.costs.machine, query_step=step)))


def waste_by_graphs(case: Case) -> list[tuple[float, float]]:
    """Mean waste over the scenes, of one plan for all of them, by its number of buckets."""
    found = []
    for graphs in GRAPHS:
        plan = planned(case, graphs, SCENES)
        found.append(
            (float(graphs), statistics.mean(score_plan(plan, case, scene).waste for scene in SCENES))
        )
    return found


def draw(case: Case, path: Path) -> None:
    """Our curve, and vLLM's and TGI's buckets as ticks at their count and waste."""
    lines: dict[str, list[tuple[float, float]]] = {
        f"ours, queries of {step}": waste_by_graphs(with_step(case, step)) for step in STEPS
    }
    vllm = (peers.exponential(case.server), peers.padding_aware(case.server), peers.linear(case.server))
    for peer in vllm:
        waste = statistics.mean(score_vllm(peer, case, scene).waste for scene in SCENES)
        count = min(len(peer), GRAPHS[-1])
        lines[f"vLLM {peer.name}, {len(peer)}"] = [
            (count / 1.15, waste),
            (min(count * 1.15, GRAPHS[-1]), waste),
        ]
    title = f"Padding in % of the work, by buckets ({case.costs.machine.name}, {case.server.length} tokens)"
    picture.save(path, picture.draw_lines(title, "buckets", lines, GRAPHS, 16))


def table(case: Case, less: dict[str, list[float]]) -> None:
    """Print one case; collects into `less` what each plan saves."""
    machine = case.costs.machine
    print(
        f"\n### {machine.name}, {case.server.length} tokens, queries of {machine.query_step}, "
        f"N = {len(peers.exponential(case.server))}\n"
    )
    print("| traffic @ load | " + " | ".join((*PEERS, *OURS, "misses")) + " |")
    print("|---" + "|---:" * (len(PEERS) + len(OURS) + 1) + "|")
    for (name, load), scores in rows_of(case):
        saved = {each: scores[each].less_than(scores["exp"]) for each in (*PEERS[1:3], *OURS)}
        for each, value in saved.items():
            less.setdefault(f"{each}, queries of {machine.query_step}" if each in OURS else each, []).append(
                value
            )
        wasted = [f"{scores[each].waste:.1f}" for each in PEERS]
        told = [f"{scores[each].waste:.1f} (-{saved[each]:.0f})".replace("--", "+") for each in OURS]
        misses = sum(scores[each].misses for each in PEERS)
        print(f"| {name} @ {load:.2f} | " + " | ".join((*wasted, *told, str(misses))) + " |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1000, help="of each scene and seed")
    parser.add_argument("--machines", nargs="+", default=["gaudi2", "gaudi3"], choices=["gaudi2", "gaudi3"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 32768])
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), help="of tokens of a query")
    parser.add_argument("--curve", type=Path, help="draw this PNG for the first machine and length")
    return parser.parse_args()


def main() -> None:
    """Simulate, plan, score, print as Markdown."""
    options = parse()
    less: dict[str, list[float]] = {}
    print(
        "Waste in % of the work, in brackets the change of the padding against exp, in %; 0 misses of ours."
    )
    for machine in options.machines:
        for length in options.lengths:
            case = case_of(machine, length, options.requests)
            for step in options.steps:
                table(with_step(case, step), less)
            if options.curve and (machine, length) == (options.machines[0], options.lengths[0]):
                draw(case, options.curve)
    print("\n### Padding saved against exp, %\n\n| plan | worst | median | best |\n|---|---:|---:|---:|")
    for each, values in less.items():
        print(f"| {each} | {min(values):.0f} | {statistics.median(values):.0f} | {max(values):.0f} |")


if __name__ == "__main__":
    main()
