"""What the benchmarks of the engine itself drive: scheduler and runner in this process, without queue or HTTP."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.load import load
from models.runner import Launched, PagedRunner
from models.step import LoadSpec, Sampling
from worker import sequence
from worker.launcher import DEFAULTS
from worker.scheduler import Batch, Scheduler, Settled


def run_as_engine() -> None:
    """Start this process anew with the environment that a worker gives its engine, unless it has it already."""
    if missing := {name: value for name, value in DEFAULTS.items() if name not in os.environ}:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **missing})


def random_llama(folder: Path, *, vocab: int, positions: int, scale: float = 1.0, **shape: int) -> Path:
    """Write a Llama with random weights, which speed does not depend on. `shape`: hidden, layers, heads,
    kv_heads, intermediate.

    `scale` multiplies the weights of a fresh model, which at 1 repeats one token for ever.
    """
    torch.manual_seed(0)
    hidden, heads = shape["hidden"], shape["heads"]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=shape.get("intermediate", hidden * 10 // 3),
        num_hidden_layers=shape["layers"],
        num_attention_heads=heads,
        num_key_value_heads=shape.get("kv_heads", max(1, heads // 2)),
        vocab_size=vocab,
        max_position_embeddings=positions,
        initializer_range=0.02 * scale,
        tie_word_embeddings=False,
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def ready(spec: LoadSpec) -> PagedRunner:
    """The model, warmed up."""
    runner = load(spec, lambda *progress: None)
    runner.warm_up(lambda *progress: None)
    return runner


class Loop:
    """An engine's loop with nothing around it."""

    def __init__(
        self, runner: PagedRunner, *, eos_ids: Iterable[int] = (), prefix_cache: bool = True
    ) -> None:
        """Without `eos_ids` every sequence gets all the tokens that it asks for."""
        self._runner = runner
        self.scheduler = Scheduler(runner.plan, eos_ids, runner.info.identity, prefix_cache)
        self._launched: deque[tuple[Batch, Launched]] = deque()
        self._admitted = 0

    def admit(
        self, prompt: Sequence[int], new: int, sampling: Sampling | None = None, output: Sequence[int] = ()
    ) -> sequence.Sequence:
        """Take one in that wants `new` tokens in all, `output` being the first of them."""
        self._admitted += 1
        taken = sequence.Sequence(
            seq=self._admitted,
            prompt=tuple(prompt),
            output=list(output),
            sampling=sampling or Sampling(),
            max_new_tokens=new,
        )
        self.scheduler.admit(taken)
        return taken

    def step(self) -> Settled | None:
        """Launch as far ahead as the engine does, and settle the oldest step; None: nothing is left."""
        while len(self._launched) < self._runner.depth and (batch := self.scheduler.schedule()):
            for opened in batch.opened:
                assert opened.slot is not None
                self._runner.open(opened.slot, opened.prompt, opened.output, opened.sampling)
            self._launched.append((batch, self._runner.launch(batch.step)))
        if not self._launched:
            return None
        batch, pending = self._launched.popleft()
        return self.scheduler.settle(batch, pending.read())

    def run(self) -> None:
        """Until nothing is left."""
        while self.step():
            pass
