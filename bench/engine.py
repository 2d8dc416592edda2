"""The engine beside transformers' own `generate`, on this machine's CPU.

Four ways to serve the same prompts, greedy, each wanting its own number of tokens:
  engine    continuous batching over the sealed plan (worker/scheduler.py + models/runner.py, no queue, no HTTP)
  one       `generate`, one prompt after another
  padded    `generate` on the left-padded batch of all, which runs until the longest is done
  again     the engine a second time: its ratio to itself is the noise that any other ratio must exceed

Prompts of 16 to 512 and outputs of 16 to 256 tokens, uniformly at random, drawn anew in each round. A round runs all
ways in random order; ratios are taken within a round, then their median and quartiles. Only tokens that were asked for
count. `one` is measured on `--sample` of the prompts, other ones in each round, and scaled by their share of the new
tokens: one prompt's cost does not depend on another's, so that costs add up.

The bias: prompts arrive all at once, which is the padded batch's best case. The process runs with the environment that
a worker gives its engine (worker/launcher.py DEFAULTS), and so do the ways of transformers: it favours them too.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from bench.hardware import hardware, spread
from bench.loop import Loop, random_llama, ready, run_as_engine
from models.demo import WEIGHTS
from models.runner import PagedRunner
from models.step import LoadSpec
from worker.launcher import DEFAULTS

VOCAB_USED = 1000
ARGUMENT = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
WAYS = ("engine", "one", "padded", "again")
Work = list[tuple[list[int], int]]
"""Prompts, and how many tokens each wants."""


@dataclass(frozen=True)
class Cost:
    """What one way of serving took: seconds of wall and of CPU (all threads), and new tokens per second of wall."""

    wall: float
    cpu: float
    speed: float


@dataclass(frozen=True)
class Contest:
    """Who competes, and over what."""

    runner: PagedRunner
    model: Any
    options: argparse.Namespace

    def work_of(self, count: int, turn: int) -> Work:
        """What a round has to serve; the same for every way."""
        chance, most = random.Random(f"{self.options.seed} {count} {turn}"), self.options
        return [
            (
                [chance.randrange(3, VOCAB_USED) for _ in range(chance.randint(16, most.prompt))],
                chance.randint(16, most.new),
            )
            for _ in range(count)
        ]

    def round(self, count: int, turn: int) -> dict[str, Cost]:
        """Every way, once, in random order."""
        work, chance = self.work_of(count, turn), random.Random(turn)
        sample = chance.sample(work, min(self.options.sample, count))
        ways: dict[str, Callable[[], Cost]] = {
            "engine": lambda: measure(lambda: through_engine(self.runner, work), work, work),
            "one": lambda: measure(lambda: one_by_one(self.model, sample), work, sample),
            "padded": lambda: measure(lambda: padded(self.model, work), work, work),
            "again": lambda: measure(lambda: through_engine(self.runner, work), work, work),
        }
        return {name: ways[name]() for name in chance.sample(WAYS, len(WAYS))}


def through_engine(runner: PagedRunner, work: Work) -> None:
    """All at once through scheduler and runner, over an empty prefix cache."""
    loop = Loop(runner)
    for prompt, new in work:
        loop.admit(prompt, new)
    loop.run()


def padded(model: Any, work: Work) -> None:
    """One call of transformers' generate, left-padded, as long as the longest wants."""
    prompts, new = [prompt for prompt, _ in work], max(new for _, new in work)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        model.generate(ids, attention_mask=mask, **settings)


def one_by_one(model: Any, work: Work) -> None:
    """As many calls as prompts."""
    for each in work:
        padded(model, [each])


def measure(call: Callable[[], None], work: Work, done: Work) -> Cost:
    """What all the work would have taken, of which the call does what is `done`."""
    wanted = sum(new for _, new in work)
    scale = wanted / sum(new for _, new in done)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    wall, cpu = scale * (time.perf_counter() - wall), scale * (time.process_time() - cpu)
    return Cost(wall, cpu, wanted / wall)


def compare(contest: Contest, count: int, end: float) -> list[dict[str, Cost]]:
    """Rounds until there are enough, or the one in which the time ends; one before them is not counted."""
    contest.round(count, 0)
    rounds = []
    for turn in range(1, contest.options.rounds + 1):
        rounds.append(contest.round(count, turn))
        if time.monotonic() > end:
            break
    return rounds


def report(count: int, rounds: list[dict[str, Cost]], sample: int) -> None:
    """One line for each way: its tokens per second, and its time over the engine's of the same round."""
    scaled = f"; one by one measured on {sample} prompts of each round and scaled" if sample < count else ""
    print(f"\n{count} concurrent, {len(rounds)} rounds, median [quartiles]{scaled}")
    print(f"  {'':8}{'new tokens/s':>26}{'wall / engine':>28}{'CPU / engine':>28}")
    for name in WAYS:
        pairs = [(each[name], each["engine"]) for each in rounds]
        speed = spread([mine.speed for mine, _ in pairs])
        wall = spread([mine.wall / engine.wall for mine, engine in pairs])
        cpu = spread([mine.cpu / engine.cpu for mine, engine in pairs])
        print(f"  {name:8}{speed:>26}{wall:>28}{cpu:>28}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-id", help="a folder, or demo; default: a random Llama of the shape below")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12, help="half as many for keys and values")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=20, help="at each concurrency")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="for all concurrencies together, in equal shares; the round in which a share ends is the last",
    )
    parser.add_argument("--prompt", type=int, default=512, help="longest prompt; the shortest is 16")
    parser.add_argument("--new", type=int, default=256, help="most new tokens; the fewest are 16")
    parser.add_argument("--sample", type=int, default=4, help="prompts of a round that `one` is measured on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if min(options.prompt, options.new) < 16 or min(options.rounds, options.sample) < 1:
        parser.error("--prompt and --new are at least 16, --rounds and --sample at least 1")
    return options


def prepare(options: argparse.Namespace, folder: Path) -> Contest:
    """Load the model twice, for the engine and for transformers; prints what is compared."""
    chosen = {None: None, "demo": WEIGHTS}.get(options.model_id, options.model_id)
    shape = {name: getattr(options, name) for name in ("hidden", "layers", "heads")}
    total = options.prompt + options.new
    path = chosen or random_llama(folder, vocab=8192, positions=max(2048, total), **shape)
    limits = {"slots": max(options.concurrent), "max_total_tokens": total}
    began = time.monotonic()
    runner = ready(LoadSpec(model_id=str(path), dtype=options.dtype, **limits))
    print(hardware("torch", "transformers"))
    print(f"{runner.info.parameters / 1e6:.1f} M parameters; {vars(options)}; every way with {DEFAULTS}")
    print(f"{len(runner.plan)} buckets, loaded and warm after {time.monotonic() - began:.1f} s", flush=True)
    auto: Any = AutoModelForCausalLM
    dtype = getattr(torch, options.dtype)
    model = auto.from_pretrained(path, attn_implementation="sdpa", **{ARGUMENT: dtype}).eval()
    return Contest(runner, model, options)


def main() -> int:
    """Measure and print."""
    run_as_engine()
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        contest = prepare(options, Path(folder))
        share = 60 * options.minutes / len(options.concurrent)
        for count in options.concurrent:
            report(count, compare(contest, count, time.monotonic() + share), options.sample)
        print(f"\ncompilations since warm-up: {contest.runner.compilations}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
