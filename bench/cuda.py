"""The engine on one card: exact, nothing captured after warm-up, and how near it comes to what the card can do.

`python -m bench.cuda`, where torch sees a card. First tiny models of four families, in float64 and float32, beside
transformers' own `generate` on the card. Then a Llama of the shape of Llama 3.1 8B with random weights: decode steps
against the bandwidth of a copy, prefill against a matrix product, both measured in the same run, and beside them
`generate` with a static cache, compiled. `--device cpu --small` runs all of it on the host, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from bench.ceilings import Work, measure
from bench.in_memory import engine, random_model, twin
from bench.static_generate import Prompts, StaticGenerate
from models.devices import Device, device_of
from models.families import FAMILIES
from models.runner import PagedRunner
from tests.models.drive import Driver, mend, sequence
from tests.support import tiny

EXACT = ("llama", "mixtral", "gemma2", "deepseek_v3")
LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "eos_token_id": None,
}  # fmt: skip
SMALL = LLAMA_8B | {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 512,
}  # fmt: skip


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
    device = device_of(given.device)
    said = {"torch": torch.__version__, "transformers": transformers.__version__, **device.info()}
    print(", ".join(f"{name} {value}" for name, value in said.items()))
    exact = exactness(device)
    report = {"machine": said, "exact": exact, "speed": speed(device, given.small, given.repeats)}
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))
    # In float32 two tokens may be so near each other that the order of a sum decides.
    wrong = [each for each in exact if each["dtype"] == "float64" and each["first difference"] is not None]
    return 1 if wrong or any(each["captured"] for each in exact) else 0


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


def speed(device: Device, small: bool, repeats: int) -> dict[str, Any]:
    """Decode at several batches and one prefill, ours and theirs, as shares of the ceilings."""
    batches, length, new, prompt = ((1, 4), 32, 16, 64) if small else ((1, 16, 64), 512, 128, 2048)
    dtype = torch.float32 if device.name == "cpu" else torch.bfloat16
    config = AutoConfig.for_model("llama", **(SMALL if small else LLAMA_8B))
    model = random_model(config, dtype, device.torch)
    ceilings = measure(device, dtype, 1 << (24 if small else 30), 256 if small else 8192, repeats)
    work, theirs = Work.of(model), StaticGenerate(twin(model), device)
    print(
        f"\ncopy {ceilings.bandwidth / 1e9:.0f} GB/s, matrix product {ceilings.flops / 1e12:.2f} TFLOPS; "
        f"median [quartiles] of {repeats}; theirs compiled: {theirs.compiles}, which is not timed"
        "\n| | ours, ms | share of the bound | theirs, ms | share of the bound |\n|---|---|---|---|---|"
    )
    limits = {"max_total_tokens": max(length + new, prompt + 8), "prefill_chunk": prompt, "graphs": 24}
    runner = engine(model, device, slots=max(batches), **limits)
    rows: dict[str, Any] = {}
    for batch in batches:
        prompts = [[(31 * row + 7 * i) % config.vocab_size for i in range(length)] for row in range(batch)]
        bound = work.decode(ceilings, batch * (length + new * 5 / 8))
        compiling = theirs.warm_up(prompts, new)
        ours = [our_step(runner, prompts, new) for _ in range(repeats)]
        others = [theirs.step(prompts, new) for _ in range(repeats)]
        rows[f"decode, batch {batch}"] = shown(f"decode, batch {batch}", bound, ours, others)
        rows[f"decode, batch {batch}"]["compiling, s"] = compiling
    prompts = [[(7 * i) % config.vocab_size for i in range(prompt)]]
    theirs.warm_up(prompts, 1)
    ours = [our_seconds(runner, prompts, 1) for _ in range(repeats)]
    others = [theirs.seconds(prompts, 1) for _ in range(repeats)]
    name = f"prefill of {prompt}"
    rows[name] = shown(name, work.prefill(ceilings, prompt), ours, others)
    captured = runner.compilations
    runner.close()
    print(f"captured after warm-up: {captured}")
    return {"copy": ceilings.copy, "matmul": ceilings.matmul, "captured": captured, "rows": rows}


def our_step(runner: PagedRunner, prompts: Prompts, new: int) -> float:
    """Seconds of one decode step, scheduler included: two lengths of output, less what they have in common."""
    short = new // 4
    return (our_seconds(runner, prompts, new) - our_seconds(runner, prompts, short)) / (new - short)


def our_seconds(runner: PagedRunner, prompts: Prompts, new: int) -> float:
    """Of all prompts together, to the last token. No prompt is found in the cache of an earlier call."""
    driver = Driver(runner, prefix_cache=False)
    texts = [sequence(prompt, new) for prompt in prompts]
    began = time.perf_counter()
    driver.run(texts)
    return time.perf_counter() - began


def shown(name: str, bound: float, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Print a row; all that is in it."""
    cells = [f"{_quartiles(each)} | {bound / statistics.median(each):.0%}" for each in (ours, theirs)]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return {"bound": bound, "ours": ours, "theirs": theirs}


def _quartiles(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{1e3 * seconds[0]:.2f}"
    low, middle, high = (1e3 * each for each in statistics.quantiles(seconds, n=4, method="inclusive"))
    return f"{middle:.2f} [{low:.2f} … {high:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
