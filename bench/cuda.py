"""The engine on one card: exact, nothing captured after warm-up, and how near it comes to what the card can do.

`python -m bench.cuda`, where torch sees a card. First tiny models of four families, in float64 and float32, beside
transformers' own `generate` on the card. Then a Llama of the shape of Llama 3.1 8B with random weights: decode steps
against the bandwidth of a copy, prefill against a matrix product, both measured in the same run, and beside them
`generate` with a static cache, compiled. `--device cpu --small` runs all of it on the host, to see that it runs.

A decode step must read all weights but the input embedding, and what the cache has of the tokens so far; a prefill must
multiply every token with every layer's weights, and half of its scores. Both take turns in every round, over the same
weights; ours is scheduler, sampler and CUDA graphs, without queue and HTTP. transformers compiles what decodes, not its
prefill. The exit code is 1 if a text in float64 differs or anything was captured after warm-up, 2 without the device.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from bench.ceilings import Ceilings, Work, measure
from bench.contest import HEAD, Case, Contest
from bench.hardware import hardware, spread
from bench.in_memory import engine, random_model, twin
from bench.static_generate import Prompts, StaticGenerate, shorter
from models.devices import Device, device_of
from models.errors import ModelRefused
from models.families import FAMILIES
from models.plan import Bucket
from models.runner import PagedRunner
from tests.models.drive import Driver, mend, sequence
from tests.support import tiny

EXACT = ("llama", "mixtral", "gemma2", "deepseek_v3")
LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "eos_token_id": None,
}  # fmt: skip
TWO_THIN_LAYERS: dict[str, Any] = LLAMA_8B | {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 512,
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is run."""

    model: dict[str, Any]
    batches: tuple[int, ...]
    context: int
    """Tokens of the prompts that are decoded from."""
    new: int
    """Tokens that are decoded."""
    prompt: int
    """Tokens of the one that is prefilled."""
    copied: int
    """Bytes."""
    side: int
    """Of the matrices."""


FULL = Size(LLAMA_8B, (1, 16, 64), context=512, new=128, prompt=2048, copied=1 << 30, side=8192)
SMALL = Size(TWO_THIN_LAYERS, (1, 4), context=32, new=16, prompt=64, copied=1 << 24, side=256)


@dataclass(frozen=True)
class Speed:
    """What was measured of the large model."""

    settings: Size
    ceilings: Ceilings
    cases: list[Case]
    captured: int
    """After warm-up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was measured; 1 if a float64 text differs or something was captured after warm-up."""
    parser = argparse.ArgumentParser(
        "python -m bench.cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, or another that is to be had (cuda)")
    parser.add_argument("--small", action="store_true", help="a model of two thin layers, and short texts")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (5)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything that was measured there, too"
    )
    given = parser.parse_args(argv)
    try:
        device = device_of(given.device)
    except ModelRefused as error:
        print(error, file=sys.stderr)
        return 2
    said = {"machine": hardware("torch", "transformers"), **device.info()}
    print(*(f"{name}: {value}" for name, value in said.items()), sep="\n")
    exact = exactness(device)
    fast = speed(device, SMALL if given.small else FULL, given.repeats)
    if given.json:
        report = {"machine": said, "exact": exact, "speed": asdict(fast)}
        given.json.write_text(json.dumps(report, indent=1))
    # In float32 two tokens may be so near each other that the order of a sum decides.
    wrong = [each for each in exact if each["dtype"] == "float64" and each["first difference"] is not None]
    return 1 if wrong or fast.captured or any(each["captured"] for each in exact) else 0


def exactness(device: Device) -> list[dict[str, Any]]:
    """Greedy texts of three prompts together, beside those of `generate`, one by one."""
    print("\n| model | dtype | texts | captured after warm-up |\n|---|---|---|---|")
    rows = []
    for variant in EXACT:
        for dtype in (torch.float64, torch.float32):
            model = tiny.model_of(variant).to(dtype).to(device.torch)
            mend(model)
            runner = engine(model, device, slots=4, max_total_tokens=128, prefill_chunk=32, graphs=8)
            texts = [sequence([(7 * n + 3 * i) % 250 + 3 for i in range(9 + 11 * n)], 24) for n in range(3)]
            Driver(runner).run(texts)
            model.set_attn_implementation(FAMILIES[model.config.model_type].reference)
            differs = None
            for text in texts:
                expected = generated(model, device, text.prompt, len(text.output))
                pairs = enumerate(zip(text.output, expected, strict=True))
                differs = next((place for place, (a, b) in pairs if a != b), differs)
            captured = runner.compilations
            runner.close()
            name = str(dtype).removeprefix("torch.")
            rows.append({"model": variant, "dtype": name, "first difference": differs, "captured": captured})
            verdict = "equal" if differs is None else f"differ at token {differs}"
            print(f"| {variant} | {name} | {verdict} | {captured} |", flush=True)
    return rows


def generated(model: Any, device: Device, prompt: Sequence[int], new: int) -> list[int]:
    """transformers' own greedy text."""
    ids = torch.tensor([list(prompt)], device=device.torch)
    model.generation_config.eos_token_id = None
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0
    )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens


def speed(device: Device, size: Size, repeats: int) -> Speed:
    """Decode at several batches and one prefill, ours and theirs, as shares of the ceilings."""
    dtype = torch.float32 if device.name == "cpu" else torch.bfloat16
    model = random_model(AutoConfig.for_model("llama", **size.model), dtype, device.torch)
    ceilings = measure(device, dtype, size.copied, size.side, repeats)
    theirs = StaticGenerate(twin(model), device)
    print(f"\ncopy {spread([each / 1e9 for each in ceilings.copy], 0)} GB/s, read and written together")
    print(f"matrix product {spread([each / 1e12 for each in ceilings.matmul])} TFLOPS")
    print(f"{dtype}; {size.new} tokens decoded after {size.context}; median [quartiles] of {repeats} rounds")
    print(f"theirs compiled: {theirs.compiles}, which is not timed\n\n{HEAD}", flush=True)
    contest = Contest(theirs, repeats)
    # An engine of its own for each, its longest text no longer than what it runs: else their shapes share one plan.
    limits = {"slots": max(size.batches), "max_total_tokens": size.context + size.new}
    runner = engine(model, device, **limits)
    work = Work.of(model)
    cases = [decode(contest, runner, work, ceilings, size, batch) for batch in size.batches]
    captured = runner.compilations
    runner.close()
    runner = engine(model, device, slots=1, max_total_tokens=size.prompt + 1, prefill_chunk=size.prompt)
    cases.append(prefill(contest, runner, work, ceilings, size))
    captured += runner.compilations
    runner.close()
    print(f"\ncaptured after warm-up: {captured}")
    return Speed(size, ceilings, cases, captured)


def decode(
    contest: Contest, runner: PagedRunner, work: Work, ceilings: Ceilings, size: Size, batch: int
) -> Case:
    """Steps of so many rows."""
    prompts, new = [_prompt(row, size.context, size) for row in range(batch)], size.new
    return contest.run(
        f"decode, batch {batch}",
        _shape(_decode_bucket(runner, batch, size.context + new)),
        work.decode(ceilings, batch * (size.context + _middle(new))),
        lambda: our_step(runner, prompts, new),
        lambda peer: peer.step(prompts, new),
        lambda peer: peer.warm_up(prompts, new),
    )


def prefill(contest: Contest, runner: PagedRunner, work: Work, ceilings: Ceilings, size: Size) -> Case:
    """One prompt, to its first token."""
    prompts = [_prompt(0, size.prompt, size)]
    return contest.run(
        f"prefill of {size.prompt}",
        _shape(runner.plan.prefill(size.prompt, runner.plan.limits.blocks_of(size.prompt))),
        work.prefill(ceilings, size.prompt),
        lambda: our_seconds(runner, prompts, 1),
        lambda peer: peer.seconds(prompts, 1),
        lambda peer: peer.warm_up(prompts, 1),
    )


def our_step(runner: PagedRunner, prompts: Prompts, new: int) -> float:
    """Seconds of one decode step, scheduler included: two lengths of output, less what they have in common."""
    short = shorter(new)
    return (our_seconds(runner, prompts, new) - our_seconds(runner, prompts, short)) / (new - short)


def our_seconds(runner: PagedRunner, prompts: Prompts, new: int) -> float:
    """Of all prompts together, to the last token. No prompt is found in the cache of an earlier call."""
    driver = Driver(runner, prefix_cache=False)
    texts = [sequence(prompt, new) for prompt in prompts]
    began = time.perf_counter()
    driver.run(texts)
    return time.perf_counter() - began


def _middle(new: int) -> float:
    """Tokens of its output that a step has in the cache, on average over those that are timed."""
    return (shorter(new) + new) / 2


def _prompt(row: int, length: int, size: Size) -> list[int]:
    vocab: int = size.model["vocab_size"]
    return [(31 * row + 7 * i) % vocab for i in range(length)]


def _decode_bucket(runner: PagedRunner, rows: int, tokens: int) -> Bucket:
    limits = runner.plan.limits
    return runner.plan.decode(rows, limits.blocks_of(tokens) * (rows if limits.layout == "flat" else 1))


def _shape(bucket: Bucket) -> str:
    return f"{bucket.x} × {bucket.blocks} blocks"


if __name__ == "__main__":
    sys.exit(main())
