"""What DETERMINISTIC=true costs: the same engine with it and without, on this machine's CPU.

Texts    so many prompts at once, each wanting its own number of tokens, drawn anew in each round
Resumes  one sequence that has so many tokens already, alone: seconds to its next one. Without the option they are
         prefilled; with it they are computed anew one by one, as they were at first

A round runs everything with and without, in random order; ratios (with / without, wall time) are taken within a round,
then their median and quartiles. `again` is the usual engine beside itself: the noise. Scheduler and runner in this
process, no queue, no HTTP, random Llama weights. The bias: all sequences come at once, so that a batch is full while
it lasts; where few of its slots are in use, whole batches cost more than the lines of 1 and 8 say of a larger one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.hardware import hardware, spread
from bench.loop import Loop, random_llama, ready, run_as_engine
from models.runner import PagedRunner
from models.step import LoadSpec

VOCAB = 1024
PROMPT = 64
"""Tokens of the prompt of what is resumed."""

Part = Callable[[PagedRunner], float]


def texts(count: int, turn: int, options: argparse.Namespace) -> Part:
    """Seconds for so many texts at once."""

    def run(runner: PagedRunner) -> float:
        chance, loop = random.Random(f"{options.seed} {count} {turn}"), Loop(runner)
        for _ in range(count):
            prompt = [chance.randrange(3, VOCAB) for _ in range(chance.randint(16, options.prompt))]
            loop.admit(prompt, chance.randint(16, options.new))
        began = time.perf_counter()
        loop.run()
        return time.perf_counter() - began

    return run


def resume(known: int, turn: int, options: argparse.Namespace) -> Part:
    """Seconds to the next token of a text of which so many are there."""
    chance = random.Random(f"{options.seed} {known} {turn}")
    prompt = [chance.randrange(3, VOCAB) for _ in range(PROMPT)]

    def run(runner: PagedRunner) -> float:
        output = said(runner, prompt, known)
        loop = Loop(runner)
        loop.admit(prompt, known + 1, output=output)
        began = time.perf_counter()
        loop.run()
        return time.perf_counter() - began

    return run


def said(runner: PagedRunner, prompt: list[int], count: int) -> list[int]:
    """What that engine says at first."""
    loop = Loop(runner)
    sequence = loop.admit(prompt, count)
    loop.run()
    return sequence.output


def compare(runners: dict[str, PagedRunner], part: Part, turn: int) -> tuple[float, float, float]:
    """Seconds without, the ratio to that with the option, and the ratio to itself."""
    names = random.Random(turn).sample(("usual", "again", "deterministic"), 3)
    seconds = {name: part(runners[name]) for name in names}
    usual = seconds["usual"]
    return usual, seconds["deterministic"] / usual, seconds["again"] / usual


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 32], help="texts at once")
    parser.add_argument("--known", type=int, nargs="+", default=[64, 256], help="tokens there at a resume")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=256, help="longest prompt")
    parser.add_argument("--new", type=int, default=256, help="longest text")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    run_as_engine()
    options = parse()
    torch.set_num_threads(options.threads)
    print(hardware("torch", "transformers"))
    print(f"{vars(options)}\n")
    with tempfile.TemporaryDirectory() as folder:
        shape = {"hidden": options.hidden, "layers": options.layers, "heads": options.hidden // 64}
        path = random_llama(
            Path(folder), vocab=VOCAB, positions=2048, scale=3.0, intermediate=3 * options.hidden, **shape
        )
        total = max(options.prompt + options.new, PROMPT + max(options.known) + 1)
        spec = {"model_id": str(path), "slots": options.slots, "max_total_tokens": total}
        usual = ready(LoadSpec(**spec))
        runners = {
            "usual": usual,
            "again": usual,
            "deterministic": ready(LoadSpec(**spec, deterministic=True)),
        }
        graphs = {name: len(runner.plan) for name, runner in runners.items()}
        print(f"buckets: {graphs['usual']} without, {graphs['deterministic']} with the option\n")
        print("| | s without, median [quartiles] | with / without | again / without |")
        print("|---|---|---|---|")
        parts = [(f"{count} texts at once", partial(texts, count)) for count in options.counts]
        parts += [(f"next token after {known}", partial(resume, known)) for known in options.known]
        for label, part in parts:
            found = [compare(runners, part(turn, options), turn) for turn in range(options.rounds)]
            seconds, ratios, again = zip(*found, strict=True)
            print(f"| {label} | {spread(seconds)} | {spread(ratios)} | {spread(again)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
