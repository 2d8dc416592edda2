"""The engine beside transformers' own `generate`, on this machine's CPU.

Three ways to serve the same prompts, greedy, each wanting its own number of tokens:
  engine    continuous batching over the sealed plan (worker/scheduler.py + models/runner.py, no queue, no HTTP)
  one       `generate`, one prompt after another
  padded    `generate` on the left-padded batch of all, which runs until the longest is done
  again     the engine a second time: its ratio to itself is the noise that any other ratio must exceed

Each round runs all of them in random order; ratios are taken within a round, then their median and quartiles.
Only tokens that were asked for count. The bias: prompts arrive all at once, which is the padded batch's best case.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from models.demo import WEIGHTS
from models.load import load
from models.runner import PagedRunner
from models.step import LoadSpec, Sampling
from worker.scheduler import Scheduler
from worker.sequence import Sequence

VOCAB_USED = 1000
ARGUMENT = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
Work = list[tuple[list[int], int]]
"""Prompts, and how many tokens each wants."""


@dataclass(frozen=True)
class Cost:
    """What one way of serving took, in seconds."""

    wall: float
    cpu: float


def through_engine(runner: PagedRunner, work: Work) -> None:
    """All at once through scheduler and runner."""
    scheduler = Scheduler(runner.plan, ())
    for number, (prompt, new) in enumerate(work):
        scheduler.admit(
            Sequence(seq=number, prompt=tuple(prompt), output=[], sampling=Sampling(), max_new_tokens=new)
        )
    while batch := scheduler.schedule():
        for sequence in batch.opened:
            assert sequence.slot is not None
            runner.open(sequence.slot, sequence.prompt, sequence.output, sequence.sampling)
        scheduler.settle(batch, runner.launch(batch.step).read())


def generate(model: Any, prompts: list[list[int]], new: int) -> None:
    """One call of transformers' generate, left-padded."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        model.generate(ids, attention_mask=mask, **settings)


def one_by_one(model: Any, work: Work) -> None:
    """As many calls as prompts."""
    for prompt, new in work:
        generate(model, [prompt], new)


def measure(call: Callable[[], None]) -> Cost:
    """Its wall and CPU time (all threads)."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def work_of(count: int, options: argparse.Namespace) -> Work:
    """Prompts of mixed lengths; the same for every way and every round."""
    chance = random.Random(options.seed)
    return [
        (
            [
                chance.randrange(3, VOCAB_USED)
                for _ in range(chance.randint(options.prompt // 4, options.prompt))
            ],
            chance.randint(options.new // 4, options.new),
        )
        for _ in range(count)
    ]


def compare(runner: PagedRunner, model: Any, work: Work, rounds: int) -> dict[str, list[Cost]]:
    """Every way in every round, after one round that is not counted."""
    ways: dict[str, Callable[[], None]] = {
        "engine": lambda: through_engine(runner, work),
        "one": lambda: one_by_one(model, work),
        "padded": lambda: generate(model, [prompt for prompt, _ in work], max(new for _, new in work)),
        "again": lambda: through_engine(runner, work),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in random.Random(turn).sample(list(ways), len(ways)):
            cost = measure(ways[name])
            if turn:
                costs[name].append(cost)
    return costs


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return f"{middle:7.2f} [{low:.2f} … {high:.2f}]"


def report(count: int, work: Work, costs: dict[str, list[Cost]]) -> None:
    """One line for each way: tokens per second, and what the engine saves, as time of the way over the engine's."""
    tokens = sum(new for _, new in work)
    print(f"\n{count} concurrent, {sum(len(prompt) for prompt, _ in work)} prompt and {tokens} new tokens")
    print(f"  {'':8}{'new tokens/s':>26}{'wall / engine':>28}{'CPU / engine':>28}")
    for name, mine in costs.items():
        pairs = list(zip(mine, costs["engine"], strict=True))
        speed = spread([tokens / cost.wall for cost in mine])
        wall, cpu = spread([a.wall / b.wall for a, b in pairs]), spread([a.cpu / b.cpu for a, b in pairs])
        print(f"  {name:8}{speed:>26}{wall:>28}{cpu:>28}", flush=True)


def random_llama(folder: Path, hidden: int, layers: int) -> Path:
    """A Llama with random weights; speed does not depend on what they say."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        vocab_size=8192,
        max_position_embeddings=2048,
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model-id", help="a folder, or demo; default: a random Llama of --hidden and --layers"
    )
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--prompt", type=int, default=128, help="longest prompt; they start at a quarter of it"
    )
    parser.add_argument("--new", type=int, default=48, help="most new tokens; they start at a quarter of it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def describe(options: argparse.Namespace, runner: PagedRunner, warm_up: float) -> None:
    """Hardware, versions, settings."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    print(
        f"{platform.platform()}, {cpu.split(':')[-1].strip()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    print(f"{runner.info.parameters / 1e6:.1f} M parameters; {vars(options)}")
    print(f"{len(runner.plan)} buckets, warm-up {warm_up:.1f} s; {options.rounds} rounds, median [quartiles]")


def main() -> int:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        chosen = {None: None, "demo": WEIGHTS}.get(options.model_id, options.model_id)
        path = chosen or random_llama(Path(folder), options.hidden, options.layers)
        limits = {"slots": max(options.concurrent), "max_total_tokens": options.prompt + options.new}
        runner = load(LoadSpec(model_id=str(path), dtype=options.dtype, **limits), lambda *progress: None)
        began = time.perf_counter()
        runner.warm_up(lambda *progress: None)
        describe(options, runner, time.perf_counter() - began)
        dtype = getattr(torch, options.dtype)
        auto: Any = AutoModelForCausalLM
        model = auto.from_pretrained(path, attn_implementation="sdpa", **{ARGUMENT: dtype}).eval()
        for count in options.concurrent:
            work = work_of(count, options)
            report(count, work, compare(runner, model, work, options.rounds))
        print(f"\ncompilations since warm-up: {runner.compilations}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
