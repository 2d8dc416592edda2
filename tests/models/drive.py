"""Sequences through the real scheduler and a real runner, with transformers' own answer to compare."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from models import mla
from models.load import load
from models.runner import PagedRunner
from models.step import LoadSpec, Pending, Sampling
from worker.scheduler import Batch, Scheduler
from worker.sequence import Sequence as Running

DTYPE = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"


class HostReads(TorchDispatchMode):
    """Counts operations whose result's shape or value the host must wait for."""

    names = ("nonzero", "_local_scalar_dense", "unique", "masked_select")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += [str(func) for name in self.names if name in str(func)]
        return func(*args, **(kwargs or {}))


def quiet(stage: str, done: int, total: int) -> None:
    """A progress callback for those who do not look."""


def runner_of(folder: Path, **limits: Any) -> PagedRunner:
    """A warm runner in float64, small enough that ten sequences must share."""
    small = {"slots": 4, "kv_blocks": 33, "max_total_tokens": 128, "prefill_chunk": 32, "prefill_batch": 2}
    runner = load(LoadSpec(model_id=str(folder), **({"dtype": "float64"} | small | limits)), quiet)
    runner.warm_up(quiet)
    return runner


def sequence(
    prompt: Sequence[int], new: int, sampling: Sampling | None = None, output: Iterable[int] = (), **more: Any
) -> Running:
    """A sequence that goes on past end-of-sequence tokens."""
    return Running(
        seq=0,
        prompt=tuple(prompt),
        output=list(output),
        sampling=sampling or Sampling(),
        max_new_tokens=new,
        ignore_eos=True,
        **more,
    )


class Driver:
    """The engine's loop without its link: steps launched as far ahead as the runner allows."""

    def __init__(self, runner: PagedRunner, **settings: Any) -> None:
        self.runner = runner
        self.scheduler = Scheduler(runner.plan, runner.info.eos_ids, **settings)
        self.logprobs: dict[Running, list[float]] = {}
        self._launched: deque[tuple[Batch, Pending]] = deque()

    def run(self, sequences: Sequence[Running], joins: Callable[[int], int] = lambda index: 0) -> None:
        """Run all to their end, sequence i joining at step joins(i)."""
        waiting = list(enumerate(sequences))
        step = 0
        while waiting or self.scheduler.busy:
            while waiting and joins(waiting[0][0]) <= step:
                self.admit(waiting.pop(0)[1])
            self.step()
            step += 1

    def admit(self, each: Running) -> None:
        """Take one more in."""
        self.logprobs[each] = []
        self.scheduler.admit(each)

    def step(self) -> None:
        """Launch one, and settle one if no more may be launched."""
        batch = self.scheduler.schedule()
        if batch is not None:
            for each in batch.opened:
                assert each.slot is not None
                self.runner.open(each.slot, each.prompt, each.output, each.sampling)
            constrained = any(each.sampling.constrained for each in batch.sampling if each)
            pending = self.runner.launch(batch.step, partial(self.allowed, batch) if constrained else None)
            self._launched.append((batch, pending))
        if self._launched and (batch is None or len(self._launched) >= self.runner.depth):
            self.settle()

    def settle(self) -> None:
        """Take in the oldest step."""
        batch, pending = self._launched.popleft()
        for each, token in self.scheduler.settle(batch, pending.read()).tokens:
            self.logprobs[each].append(token.logprob)

    def allowed(self, batch: Batch) -> memoryview:
        """Half of all tokens for each constrained row, which half hangs on the last one; as a grammar would have it."""
        while self._launched:
            self.settle()
        vocab = np.arange(-(-self.runner.info.vocab_size // 32) * 32)
        masks = np.ones((len(batch.sampling), len(vocab)), bool)
        for index, each in enumerate(batch.sampling):
            if each and each.sampling.constrained:
                masks[index] = (vocab // 3 + [*each.prompt, *each.output][-1]) % 2 == 0
        return np.packbits(masks, axis=1, bitorder="little").view(np.int32).data


def drive(
    runner: PagedRunner, sequences: Sequence[Running], joins: Callable[[int], int] = lambda index: 0
) -> dict[Running, list[float]]:
    """Run all to their end, sequence i joining at step joins(i); the log-probabilities of each one's tokens."""
    driver = Driver(runner)
    driver.run(sequences, joins)
    return driver.logprobs


def mend(model: Any) -> None:
    """What transformers gets wrong itself: 5's own experts take no float64; 4.55 has two mistakes in DeepSeek."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    for module in model.modules():
        if type(module).__name__ == "DeepseekV2Attention":
            module.scaling = mla.softmax_scale(module.config)
        elif type(module).__name__ == "DeepseekV3TopkRouter" and DTYPE == "torch_dtype":
            module.register_forward_hook(lambda router, args, out: (out[0], out[1].double()))


class Reference:
    """transformers' own model and `generate`, in float64."""

    def __init__(self, folder: Path, attention: str = "sdpa") -> None:
        auto: Any = AutoModelForCausalLM
        self.model = auto.from_pretrained(
            folder, attn_implementation=attention, **{DTYPE: torch.float64}
        ).eval()
        mend(self.model)

    def greedy(self, prompt: Sequence[int], new: int) -> list[int]:
        """The `new` likeliest tokens after the prompt."""
        ids = torch.tensor([list(prompt)])
        settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return list(out[0, len(prompt) :].tolist())

    def logprobs(self, prompt: Sequence[int], output: Sequence[int]) -> list[float]:
        """What the model gives each token of the output, in one forward without a cache."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
        return [float(row[token]) for row, token in zip(logits.log_softmax(-1), output, strict=True)]
