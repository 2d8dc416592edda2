"""What long prompts do to those that are generating: the gaps between their tokens, with chunked prefill and without.

Eight streams decode. At set steps of theirs a prompt of 8192 tokens arrives, of which only the first token is wanted.
The ways differ in `prefill_chunk` alone, the most tokens of one prefill step: 256, 512, or the whole prompt. Between
two decode steps there is at most one chunk. All ways generate the same tokens, so that a way's percentiles are over
equally many gaps: those of the streams from the first arrival on. A big chunk makes few gaps long, a small one many.

What chunking costs is printed beside it: the time to the first token of the long prompts, from their arrival, and the
time for everything. Scheduler and runner in this process, no queue, no HTTP, random Llama weights, CPU. Each round runs
all ways in random order. The bias: a small model, whose long prompts are mostly attention; with a larger one the rest
of a step grows, and so does every gap, in all ways.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.hardware import hardware, spread
from bench.loop import Loop, random_llama, ready, run_as_engine
from models.runner import PagedRunner
from models.step import LoadSpec
from worker.sequence import Sequence

VOCAB = 1024
STREAM_PROMPT = 32
BLOCK = 16


@dataclass
class Trace:
    """What one run saw, in seconds."""

    gaps: list[float] = field(default_factory=list)
    """Between two tokens of a stream, from the first arrival on."""
    first: list[float] = field(default_factory=list)
    """From each long prompt's arrival to its token."""
    whole: float = 0.0

    def gap(self, percent: int) -> float:
        """A percentile of the gaps; 100: the longest."""
        if percent == 100:
            return max(self.gaps)
        return statistics.quantiles(self.gaps, n=100, method="inclusive")[percent - 1]


class Run:
    """One way of serving the streams and the long prompts."""

    def __init__(self, runner: PagedRunner, options: argparse.Namespace, seed: str) -> None:
        self._loop, self._options = Loop(runner), options
        self._chance = random.Random(seed)
        self._streams: list[Sequence] = []
        self._arrived: dict[Sequence, float] = {}
        self._last: dict[Sequence, float] = {}
        self._trace = Trace()

    def trace(self) -> Trace:
        """Start the streams, let the long prompts arrive while they run, and finish all."""
        began = time.perf_counter()
        self._streams = [
            self._loop.admit(self._prompt(STREAM_PROMPT), self._options.new)
            for _ in range(self._options.streams)
        ]
        left = self._options.arrivals
        while settled := self._loop.step():
            self._note(sequence for sequence, _ in settled.tokens)
            if left and self._steps() >= 8 + (self._options.arrivals - left) * self._options.every:
                self._arrived[self._loop.admit(self._prompt(self._options.long), 1)] = time.perf_counter()
                left -= 1
        self._trace.whole = time.perf_counter() - began
        return self._trace

    def _prompt(self, length: int) -> list[int]:
        return [self._chance.randrange(3, VOCAB) for _ in range(length)]

    def _steps(self) -> int:
        """Tokens that the slowest stream has."""
        return min(len(stream.output) for stream in self._streams)

    def _note(self, sequences: Iterable[Sequence]) -> None:
        now = time.perf_counter()
        for sequence in sequences:
            if sequence in self._arrived:
                self._trace.first.append(now - self._arrived[sequence])
            elif self._arrived:
                self._trace.gaps.append(now - self._last[sequence])
            self._last[sequence] = now


def load(path: Path, chunk: int, options: argparse.Namespace) -> PagedRunner:
    """An engine whose prefill steps take that many tokens."""
    total = options.long + BLOCK
    # Every sequence to its end, and the block in reserve that each running one keeps free.
    blocks = options.streams * -(-(STREAM_PROMPT + options.new) // BLOCK) + options.arrivals * (
        total // BLOCK
    )
    return ready(
        LoadSpec(
            model_id=str(path),
            dtype="float32",
            slots=options.streams + options.arrivals,
            block_size=BLOCK,
            kv_blocks=blocks + options.streams + options.arrivals + 1,
            max_input_tokens=options.long,
            max_total_tokens=total,
            prefill_chunk=chunk,
            graphs=options.graphs,
        )
    )


def report(chunk: int, traces: list[Trace], long: int) -> None:
    """A row of the table, in ms, and in s what chunking costs."""
    name = "whole prompt" if chunk == long else f"{chunk}"
    gaps = " | ".join(
        spread([1e3 * trace.gap(percent) for trace in traces], 1) for percent in (50, 90, 99, 100)
    )
    first = spread([statistics.mean(trace.first) for trace in traces])
    print(f"| {name} | {gaps} | {first} | {spread([trace.whole for trace in traces])} |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--new", type=int, default=192, help="tokens of a stream")
    parser.add_argument("--long", type=int, default=8192, help="tokens of a long prompt")
    parser.add_argument("--arrivals", type=int, default=2, help="long prompts of a run")
    parser.add_argument("--every", type=int, default=80, help="a stream's tokens between two arrivals")
    parser.add_argument("--chunks", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--graphs", type=int, default=32, help="most buckets of each plan")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if 8 + (options.arrivals - 1) * options.every >= options.new:
        parser.error("the last long prompt would arrive after the streams' end: raise --new or lower --every")
    return options


def main() -> int:
    """Measure and print."""
    run_as_engine()
    options = parse()
    torch.set_num_threads(options.threads)
    print(hardware("torch", "transformers"))
    print(vars(options), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shape = {"hidden": options.hidden, "layers": options.layers, "heads": options.hidden // 64}
        path = random_llama(Path(folder), vocab=VOCAB, positions=2 * options.long, **shape)
        chunks = [*options.chunks, options.long]
        runners = {chunk: load(path, chunk, options) for chunk in chunks}
        traces: dict[int, list[Trace]] = {chunk: [] for chunk in chunks}
        for turn in range(options.rounds + 1):  # the first one is not counted
            for chunk in random.Random(turn).sample(chunks, len(chunks)):
                trace = Run(runners[chunk], options, f"{options.seed} {turn}").trace()
                traces[chunk] += [trace] if turn else []
    print(
        "\n| prefill_chunk | gap p50, ms | p90, ms | p99, ms | longest, ms | long prompts' first token, s | all, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for chunk in chunks:
        report(chunk, traces[chunk], options.long)
    return 0


if __name__ == "__main__":
    sys.exit(main())
