"""How often a text changes because the same sequence ran in other shapes: rates with Wilson's 95 % intervals.

The sampler's choice depends on the logits and on (seed, choice, position) alone; the logits' last bits depend on what
a step computes together. Each text is generated alone (one slot) and compared with the same text
  in a crowd    of 16, which the others join and leave in mid-flight
  resumed       alone, with its first k tokens given back as a resume gives them, k at random

Greedy, and sampled with a seed (temperature 0.8, top_p 0.95). The prefix cache is off: only shapes differ. A text
counts as different from its first other token on; tokens are counted up to there.

Models: the built-in demo model, on beginnings of its own kind of stories; and a random Llama whose head is scaled until
the mean entropy of its next token is --entropy nats on random prompts, about what a trained model's is on text: as they
come, a random model's logits are nearly uniform, and its two likeliest tokens closer far more often than a trained's.
With --deterministic the engines are a worker's with that option, all with as many slots, and the crowd has so few
blocks that it preempts.

In float64, and in any dtype with --deterministic, nothing may differ: then the exit code is 1. The rates are of this
machine's kernels.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from bench.hardware import hardware
from bench.loop import Loop, random_llama, ready, run_as_engine
from models.demo import WEIGHTS
from models.demo.corpus import plain_story
from models.step import LoadSpec, Sampling
from wire.tokenizer import Tokenizer

CROWD = 16
LONGEST_PROMPT = 64
SCARCE = 64
"""KV blocks of a deterministic crowd, of the 160 that it would fill."""
VOCAB = 2048
SCALE = 3.0
"""Of the random model's weights: enough that its texts go on and on without repeating themselves."""
DTYPES = ("float32", "bfloat16", "float64")
Text = list[int]


@dataclass(frozen=True)
class Request:
    """One text to generate."""

    prompt: Text
    sampling: Sampling


@dataclass(frozen=True)
class Subject:
    """A model and the requests that are put to it."""

    name: str
    path: Path
    prompts: list[Text]

    def requests(self, do_sample: bool) -> list[Request]:
        """Greedy, or each with a seed of its own."""
        settings: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95} if do_sample else {}
        return [Request(prompt, Sampling(seed=seed, **settings)) for seed, prompt in enumerate(self.prompts)]


@dataclass(frozen=True)
class Tally:
    """Where texts differ from what they were alone."""

    first: list[int]
    """The position of each differing text's first other token."""
    texts: int
    tokens: int
    """Compared, up to the first other token of each text."""

    @classmethod
    def of(cls, alone: Sequence[Text], others: Sequence[Text], starts: Sequence[int]) -> Tally:
        """`starts`: where each text begins to be generated anew, before which it cannot differ."""
        found = [first_difference(one, other) for one, other in zip(alone, others, strict=True)]
        ends = [len(one) if at is None else at + 1 for one, at in zip(alone, found, strict=True)]
        first = [at for at in found if at is not None]
        return cls(first, len(found), sum(ends) - sum(starts))

    @property
    def line(self) -> str:
        """Its cells of the table."""
        low, high = wilson(len(self.first), self.texts)
        where = (
            f"{statistics.median(self.first):.0f} ({min(self.first)} … {max(self.first)})"
            if self.first
            else "–"
        )
        return (
            f"{len(self.first)} of {self.texts} | {100 * len(self.first) / self.texts:.1f} "
            f"[{100 * low:.1f} … {100 * high:.1f}] | {where} | {self.tokens}"
        )


def first_difference(one: Text, other: Text) -> int | None:
    """The first position at which they differ, an end being a difference too."""
    if one == other:
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % by default."""
    share, weight = hits / of, z * z / of
    middle = (share + weight / 2) / (1 + weight)
    half = z * sqrt(share * (1 - share) / of + weight / (4 * of)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


class Engines:
    """One model in one dtype, with a slot and with many."""

    def __init__(self, subject: Subject, dtype: str, new: int, deterministic: bool) -> None:
        self._new = new
        spec = LoadSpec(
            model_id=str(subject.path),
            dtype=dtype,
            slots=CROWD,
            max_total_tokens=LONGEST_PROMPT + new,
            deterministic=deterministic,
        )
        self._crowd = ready(replace(spec, kv_blocks=SCARCE) if deterministic else spec)
        self._alone = self._crowd if deterministic else ready(replace(spec, slots=1))

    def alone(self, requests: Sequence[Request], given: Sequence[Text] = ()) -> list[Text]:
        """The text of each, begun with what is given of it."""
        loop = Loop(self._alone, eos_ids=self._alone.info.eos_ids, prefix_cache=False)
        texts = []
        for request, output in zip(requests, given or [[]] * len(requests), strict=True):
            texts.append(loop.admit(request.prompt, self._new, request.sampling, output).output)
            loop.run()
        return texts

    def in_a_crowd(self, requests: Sequence[Request], chance: random.Random) -> list[Text]:
        """The text of each, among others that come after some steps at random."""
        loop = Loop(self._crowd, eos_ids=self._crowd.info.eos_ids, prefix_cache=False)
        texts = []
        for request in requests:
            texts.append(loop.admit(request.prompt, self._new, request.sampling).output)
            for _ in range(chance.randint(0, 2 * self._new // CROWD)):
                loop.step()
        loop.run()
        return texts


def compare(engines: Engines, requests: list[Request], seed: int) -> Iterator[tuple[str, Tally]]:
    """What each cause of other shapes changes."""
    chance = random.Random(seed)
    alone = engines.alone(requests)
    yield "in a crowd", Tally.of(alone, engines.in_a_crowd(requests, chance), [0] * len(alone))
    # A text of one token has no middle to be resumed in.
    longer = [(request, text) for request, text in zip(requests, alone, strict=True) if len(text) > 1]
    cuts = [chance.randrange(1, len(text)) for _, text in longer]
    texts = [text for _, text in longer]
    given = [text[:cut] for text, cut in zip(texts, cuts, strict=True)]
    yield "resumed", Tally.of(texts, engines.alone([request for request, _ in longer], given), cuts)


def demo(texts: int, chance: random.Random) -> Subject:
    """The built-in model on beginnings of stories."""
    tokenizer = Tokenizer.from_folder(WEIGHTS)
    stories = [tokenizer.encode(plain_story(chance)) for _ in range(texts)]
    return Subject("demo", WEIGHTS, [story[: chance.randint(8, LONGEST_PROMPT)] for story in stories])


def peaked(folder: Path, texts: int, entropy: float, chance: random.Random) -> Subject:
    """A random Llama with its head scaled, on random prompts."""
    shape = {"hidden": 256, "layers": 4, "heads": 4, "intermediate": 848}
    random_llama(folder, vocab=VOCAB, positions=2048, scale=SCALE, **shape)
    auto: Any = LlamaForCausalLM
    model = auto.from_pretrained(folder)
    model.lm_head.weight.data *= scale_for(model, entropy)
    model.save_pretrained(folder)
    lengths = [chance.randint(8, LONGEST_PROMPT) for _ in range(texts)]
    prompts = [[chance.randrange(3, VOCAB) for _ in range(length)] for length in lengths]
    return Subject(f"random, {entropy:g} nats", folder, prompts)


@torch.inference_mode()
def scale_for(model: Any, entropy: float) -> float:
    """What to multiply the head by so that the mean entropy over random prompts is that many nats."""
    logits = model(torch.randint(3, VOCAB, (16, LONGEST_PROMPT), generator=torch.manual_seed(0))).logits
    low, high = 0.0, 1e4  # from uniform to certain
    for _ in range(40):
        middle = (low + high) / 2
        reached = torch.special.entr((middle * logits).softmax(-1)).sum(-1).mean()
        low, high = (middle, high) if reached > entropy else (low, middle)
    return low


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=200, help="of each model, dtype and way of choosing")
    parser.add_argument("--new", type=int, default=96, help="most tokens of a text")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--deterministic", action="store_true", help="engines with DETERMINISTIC=true")
    parser.add_argument("--entropy", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def measure(subject: Subject, options: argparse.Namespace) -> bool:
    """Print the model's rows; whether everything was equal that must be."""
    exact = True
    for dtype in options.dtypes:
        engines = Engines(subject, dtype, options.new, options.deterministic)
        for choice in ("greedy", "sampled"):
            requests = subject.requests(choice == "sampled")
            for cause, tally in compare(engines, requests, options.seed):
                print(f"| {subject.name} | {dtype} | {choice} | {cause} | {tally.line} |", flush=True)
                exact = exact and not (tally.first and (options.deterministic or dtype == "float64"))
    return exact


def main() -> int:
    """Measure, print; 1 if anything differed that must not."""
    run_as_engine()
    options = parse()
    torch.set_num_threads(options.threads)
    print(hardware("torch", "transformers"))
    print(f"{vars(options)}\n")
    print(
        "| model | dtype | choice | cause | texts that differ | % [95 %] | first at, median (range) | tokens |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        chance = random.Random(options.seed)
        subjects = [
            demo(options.texts, chance),
            peaked(Path(folder), options.texts, options.entropy, chance),
        ]
        exact = [measure(subject, options) for subject in subjects]
    if not all(exact):
        print(
            "\ntexts differ that must be equal: that is an error of the engine, not of rounding",
            file=sys.stderr,
        )
    return 0 if all(exact) else 1


if __name__ == "__main__":
    sys.exit(main())
