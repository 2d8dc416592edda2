"""`python -m models plan`: the plan of a server that need not run, without a device, torch or weights."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from models import picture
from models.checkpoint import Checkpoint, read_checkpoint
from models.cost import DTYPE_BYTES, MACHINES, CostModel, Machine
from models.errors import ModelRefused
from models.histogram import Histogram, HistogramBroken
from models.limits import choose_limits
from models.plan import LAYOUTS, Layout, Limits
from models.planner import DEFAULT_GRAPHS, NO_TRAFFIC, Choice, affordable_graphs, choose, outlook
from models.report import Report, as_dict, as_text, in_reach
from models.step import LoadSpec

WRONG_CALL = 2
"""Exit code for what the person who called can mend."""

WEIGHTS_AND_KV = 0.9
"""Share of a device's memory for weights and KV cache; the rest is for what a step computes with."""

LARGEST_CURVE = 128
"""Most buckets on the curve that --curve draws."""

DESCRIPTION = """\
Print the plan of shapes that a server would warm up: its buckets, the padding to expect, the memory of the KV cache
and the time of the warm-up. Needs no device and reads no weights.

A server counts the shapes of its launches; give that file with --histogram, and the buckets lie where the traffic is.
"""


@dataclass(frozen=True, slots=True)
class Room:
    """A device that need not be there."""

    layout: Layout
    block_size: int
    prefill_chunk: int
    kv_share: float = 1.0
    kv_most: int = 1 << 60


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models", description="Plans, without a model in memory.")
    plan = parser.add_subparsers(dest="command", required=True).add_parser(
        "plan",
        prog="sagrada plan",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="print the plan of shapes that a server would warm up",
    )
    model = plan.add_argument_group("model and machine")
    model.add_argument(
        "--model-id", default="demo", help="a folder, a name on the hub, or demo (the default)"
    )
    model.add_argument("--device", choices=MACHINES, default="cpu", help="whose speed and memory count (cpu)")
    model.add_argument(
        "--memory", type=_positive_float, metavar="GIB", help="of the device; default: what it has"
    )
    model.add_argument(
        "--dtype", choices=DTYPE_BYTES, help="of weights and cache; default: float32 on cpu, else bfloat16"
    )
    limits = plan.add_argument_group("limits, as the worker takes them; what is left out, it chooses itself")
    for name in ("slots", "block-size", "kv-blocks", "max-input-tokens", "max-total-tokens"):
        limits.add_argument(f"--{name}", type=_positive, metavar="N", help=_LIMITS[name])
    for name in ("prefill-chunk", "prefill-batch"):
        limits.add_argument(f"--{name}", type=_positive, metavar="N", help=_LIMITS[name])
    limits.add_argument(
        "--layout", choices=LAYOUTS, help="how decode reads the cache; default: gather on cpu, else flat"
    )
    limits.add_argument(
        "--deterministic", action="store_true", help="shapes that hang on their own sequence alone"
    )
    plans = plan.add_argument_group("plan")
    plans.add_argument("--histogram", type=Path, metavar="FILE", help="shapes that a server has counted")
    plans.add_argument(
        "--prior", type=_share, help="share of the traffic taken to be of any shape (0.1; 1 without one)"
    )
    size = plans.add_mutually_exclusive_group()
    size.add_argument("--graphs", type=_positive, metavar="N", help=f"most buckets ({DEFAULT_GRAPHS})")
    size.add_argument(
        "--warm-up", type=_positive_float, metavar="SECONDS", help="as many as so much warm-up suffices for"
    )
    output = plan.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--curve", type=Path, metavar="FILE.png", help="also draw padding against buckets")
    return parser


_LIMITS = {
    "slots": "sequences that run at once",
    "block-size": "tokens per KV block; default: 128 on Gaudi, else 16",
    "kv-blocks": "blocks of the KV cache, scratch included; default: what the memory has room for",
    "max-input-tokens": "longest prompt",
    "max-total-tokens": "longest prompt and output together",
    "prefill-chunk": "most prompt tokens of one step",
    "prefill-batch": "most prompts in one step",
}


def plan(given: argparse.Namespace) -> Report:
    """The plan for these options; ValueError, ModelRefused or OSError, as a sentence."""
    machine: Machine = MACHINES[given.device]
    dtype = given.dtype or ("float32" if given.device == "cpu" else "bfloat16")
    checkpoint = read_checkpoint(given.model_id, DTYPE_BYTES[dtype])
    limits = _limits(given, machine, checkpoint)
    histogram = (
        Histogram.load(given.histogram) if given.histogram and not given.deterministic else Histogram()
    )
    view = outlook(limits, CostModel(machine, checkpoint.shape), histogram, given.prior)
    graphs = given.graphs or (
        affordable_graphs(given.warm_up, machine.graph) if given.warm_up else DEFAULT_GRAPHS
    )
    choice = choose(view, graphs)
    if given.curve:
        picture.save(given.curve, _curve(choose(view, max(graphs, LARGEST_CURVE)), given.model_id))
    return Report(given.model_id, checkpoint, choice, view, in_reach(choice.plan, dict(histogram)))


def _home(machine: Machine) -> Room:
    if machine.name.startswith("gaudi"):
        return Room("flat", 128, 2048)
    return Room("gather", 16, 256 if machine.name == "cpu" else 2048)


def _limits(given: argparse.Namespace, machine: Machine, checkpoint: Checkpoint) -> Limits:
    names = {f.name for f in fields(LoadSpec)} & {name.replace("-", "_") for name in _LIMITS}
    chosen = {name: value for name in names if (value := getattr(given, name)) is not None}
    spec = LoadSpec(
        model_id=given.model_id, layout=given.layout or "", deterministic=given.deterministic, **chosen
    )
    memory = machine.memory if given.memory is None else given.memory * 2**30
    room = int(memory * WEIGHTS_AND_KV) - checkpoint.shape.weight_bytes
    if room <= 0:
        raise ValueError(
            f"{memory / 2**30:.1f} GiB do not hold the {checkpoint.shape.weight_bytes / 2**30:.1f} GiB of weights: "
            "give more --memory, or a smaller --dtype"
        )
    home = _home(machine)
    most = checkpoint.max_position or spec.max_total_tokens
    return choose_limits(spec, most, lambda size: size * checkpoint.shape.kv_bytes, home, room)


def _curve(choice: Choice, model_id: str) -> bytes:
    """From 8 buckets on: fewer are off any useful scale."""
    line = [(count, 100 * share) for count, share in choice.curve]
    most = choice.curve[-1][0]
    ticks = [8 << i for i in range(2 + max(0, (most - 1).bit_length() - 4))]
    top = max((share for count, share in line if count >= 2 * ticks[0]), default=8)
    title = f"{Path(model_id).name}: expected padding, % of the work"
    return picture.draw_lines(title, "buckets", {"": line}, ticks, 8 * max(1, round(top / 8)))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _positive_float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= NO_TRAFFIC:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return number


def main(argv: Sequence[str]) -> int:
    """Print the plan; the exit code."""
    given = options().parse_args(argv)
    try:
        report = plan(given)
    except (ModelRefused, HistogramBroken, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_CALL
    print(json.dumps(as_dict(report), indent=2) if given.json else as_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
