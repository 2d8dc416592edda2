"""Checks with a model: what it writes, what was compiled, and how fast it is."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import Any

import torch

from models.devices import dtype_of
from models.first_card.subject import Seen, Subject
from models.load import load
from models.runner import PagedRunner
from models.step import LoadSpec, Pending, Row, Sampling, Step

PROMPTS, LENGTH, NEW = 4, 24, 64
"""Prompts, their tokens, and the tokens that are written after each."""

COMPILED = "compiled at the start"
"""The figure of it: recipes, and operations that the host had to run."""


def prompts(vocab_size: int) -> list[tuple[int, ...]]:
    """Tokens in no order: every model has them."""
    return [
        tuple((37 * row + 101 * place + 11) % vocab_size for place in range(LENGTH)) for row in range(PROMPTS)
    ]


def quiet(stage: str, done: int, total: int) -> None:
    """Nobody looks."""


@torch.inference_mode()
def greedy(runner: PagedRunner) -> tuple[tuple[tuple[int, ...], ...], float]:
    """What the model writes after each prompt, all of them together, and the seconds of one decode step."""
    limits, device = runner.plan.limits, runner._parts.device
    width = limits.blocks_of(LENGTH + NEW)
    given = prompts(runner.info.vocab_size)
    tables = [tuple(range(1 + row * width, 1 + (row + 1) * width)) for row in range(PROMPTS)]
    written: list[list[int]] = []
    for slot, prompt in enumerate(given):
        runner.open(slot, prompt, (), Sampling())
        blocks = tables[slot][: limits.blocks_of(LENGTH)]
        row = Row(slot=slot, ids=prompt, start=0, blocks=blocks, sample=True, position=0)
        step = Step(runner.plan.prefill(LENGTH, len(blocks)), (row,))
        written.append([runner.launch(step).read().sampled[0].id])
    ahead: deque[Pending] = deque()
    device.synchronize()
    began = time.perf_counter()
    for place in range(1, NEW + 1):
        if place < NEW:
            ahead.append(runner.launch(_decode(runner, tables, place)))
        if place == NEW or len(ahead) >= runner.depth:
            for pending in [ahead.popleft()] if place < NEW else list(ahead):
                for text, sampled in zip(written, pending.read().sampled, strict=True):
                    text.append(sampled.id)
    seconds = (time.perf_counter() - began) / (NEW - 1)
    return tuple(map(tuple, written)), seconds


def _decode(runner: PagedRunner, tables: list[tuple[int, ...]], place: int) -> Step:
    limits, start = runner.plan.limits, LENGTH + place - 1
    used = limits.blocks_of(start + 1)
    rows = tuple(
        Row(slot=slot, ids=(), start=start, blocks=table[:used], sample=True, position=place)
        for slot, table in enumerate(tables)
    )
    return Step(runner.plan.decode(PROMPTS, used * (PROMPTS if limits.layout == "flat" else 1)), rows)


def spec_for(subject: Subject, **more: Any) -> LoadSpec:
    """Small limits, so that a check takes minutes."""
    small = replace(subject.spec, device=subject.device.name, slots=8, graphs=8, max_total_tokens=256)
    return replace(small, **more)


def engine(subject: Subject) -> Seen:
    """The model writes what it writes on the host, and nothing is compiled after warm-up."""
    began = time.perf_counter()
    runner = load(spec_for(subject), quiet)
    loaded = time.perf_counter()
    before = subject.device.memory()
    runner.warm_up(quiet)
    while len(runner.plan) < len(runner.whole):
        runner.grow(quiet)
    warm = time.perf_counter()
    after, started = subject.device.memory(), subject.device.compilations()
    texts, seconds = greedy(runner)
    compiled, buckets = runner.compilations, len(runner.whole)
    runner.close()
    host, _ = greedy_on_host(subject)
    same = sum(text[0] == other[0] for text, other in zip(texts, host, strict=True))
    share = sum(map(agreement, texts, host)) / len(texts)
    return Seen(
        not compiled and same == len(texts),
        f"{compiled} compiled after warm-up; first tokens equal {same} of {len(texts)}, texts as far as {share:.0%}",
        {
            "load, s": loaded - began,
            "warm-up, s": warm - loaded,
            "warm-up per bucket, s": (warm - loaded) / buckets,
            COMPILED: started,
            "kept per bucket, MiB": max(0, before.free - after.free) / buckets / 2**20,
            "decode step, ms": 1e3 * seconds,
            "texts equal to the host's": share,
        },
        texts,
    )


def again(subject: Subject) -> Seen:
    """The same once more, in another process: all that the first compiled is on disk, and nothing is compiled."""
    seen = engine(subject)
    started = seen.figures[COMPILED]
    return replace(seen, good=seen.good and not started, text=f"{started} compiled at the start; {seen.text}")


def greedy_on_host(subject: Subject) -> tuple[tuple[tuple[int, ...], ...], float]:
    """The same on the CPU, in float32."""
    runner = load(spec_for(subject, device="cpu", dtype="float32", recipes=""), quiet)
    runner.warm_up(quiet)
    return greedy(runner)


def agreement(text: tuple[int, ...], other: tuple[int, ...]) -> float:
    """The share of a text that is equal before the first token that is not."""
    pairs = zip(text, other, strict=True)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(text)) / len(text)


def reference(subject: Subject) -> Seen:
    """optimum-habana's `generate` with static shapes. It takes over all of transformers: a process of its own."""
    from models import hub

    try:
        from optimum.habana.transformers.modeling_utils import adapt_transformers_to_gaudi
    except ImportError as error:
        return Seen(False, f"optimum-habana cannot be imported: install sagrada[gaudi] ({error})")
    adapt_transformers_to_gaudi()
    from transformers import AutoModelForCausalLM

    lazy = subject.device.info().get("strategy") == "HPU Graphs"
    auto: Any = AutoModelForCausalLM
    folder = hub.resolve(subject.spec, quiet).folder
    dtype = dtype_of(subject.spec.dtype, subject.device)
    model = auto.from_pretrained(folder, torch_dtype=dtype).eval().to(subject.device.torch)
    if lazy:
        model = torch.get_device_module("hpu").wrap_in_hpu_graph(model)
    else:  # as its own text-generation example does
        options: dict[str, Any] = {"keep_input_mutations": True}
        compiled = torch.compile(model.base_model, backend="hpu_backend", options=options)
        setattr(model, model.base_model_prefix, compiled)
    ids = torch.tensor(prompts(model.config.vocab_size), device=subject.device.torch)
    wishes = {"static_shapes": True, "ignore_eos": True, "use_cache": True, "do_sample": False}
    began = 0.0
    for _ in range(3):  # the first two compile
        began = time.perf_counter()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            lazy_mode=lazy,
            hpu_graphs=lazy,
            **wishes,
        )
        subject.device.synchronize()
    seconds = (time.perf_counter() - began) / NEW
    texts = tuple(tuple(row[LENGTH:]) for row in out.cpu().tolist())
    return Seen(True, "it has written", {"step, ms": 1e3 * seconds}, texts)
