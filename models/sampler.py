"""Choosing tokens, over [B, V] in one pass of fixed shapes: no sort, no truncation, nothing read back by the host.

Three planned levels, of which the host picks the lowest that a step needs. They agree: a row whose parameters are
neutral gets the same token at every level, for each operation is then exact (x / 1, x - 0, where).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from models.filters import filtered
from models.noise import gumbel, row_key
from models.step import Row, Sampling

TINY_TEMPERATURE = 1e-4
"""Below it a temperature would only overflow: the noise no longer reaches the second-likeliest token."""


class Level(IntEnum):
    """How much of the sampler a step needs."""

    GREEDY = 0
    NOISE = 1
    """Temperature and noise."""
    FULL = 2
    """Penalties, banned end-of-sequence tokens and filters as well."""


def level_of(sampling: Sampling, position: int) -> Level:
    """The lowest level that chooses this sequence's token at this position right."""
    if penalises(sampling) or position < sampling.min_new_tokens:
        return Level.FULL
    if not sampling.do_sample:
        return Level.GREEDY
    filtered = sampling.top_k > 0 or sampling.top_p < 1 or sampling.typical_p < 1 or sampling.min_p > 0
    return Level.FULL if filtered else Level.NOISE


def penalises(sampling: Sampling) -> bool:
    """Whether the tokens so far change this sequence's logits."""
    return (
        sampling.repetition_penalty != 1 or sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
    )


@dataclass(frozen=True, slots=True)
class History:
    """What penalties count, by slot; the last row is scratch, for rows that count nothing."""

    prompt: Tensor
    """[slots + 1, V] bool: the token is in the prompt."""
    counts: Tensor
    """[slots + 1, V] int32: how often it is in the output."""

    @classmethod
    def empty(cls, slots: int, vocab_size: int, device: torch.device) -> History:
        """Nothing counted yet."""
        shape = (slots + 1, vocab_size)
        return cls(
            torch.zeros(shape, dtype=torch.bool, device=device),
            torch.zeros(shape, dtype=torch.int32, device=device),
        )

    def open(self, slot: int, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Give the slot to a sequence with these tokens."""
        self.prompt[slot].zero_()
        self.counts[slot].zero_()
        device = self.prompt.device
        self.prompt[slot].index_fill_(0, torch.tensor(list(prompt), dtype=torch.int64, device=device), True)
        tokens = torch.tensor(list(output), dtype=torch.int64, device=device)
        self.counts[slot].index_add_(0, tokens, torch.ones_like(tokens, dtype=torch.int32))

    def add(self, slots: Tensor, tokens: Tensor) -> None:
        """Count one token per row, tokens [B] in slots [B]."""
        flat = slots * self.counts.shape[1] + tokens
        self.counts.view(-1).index_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))


Picker = Callable[[Row, Sampling, int], float | int | tuple[int, int]]
"""What one row gives to an input; the last argument is the scratch slot."""

_FLOATS: dict[str, Picker] = {
    "temperature": lambda row, sampling, scratch: max(sampling.temperature, TINY_TEMPERATURE),
    "top_p": lambda row, sampling, scratch: sampling.top_p,
    "typical_p": lambda row, sampling, scratch: sampling.typical_p,
    "min_p": lambda row, sampling, scratch: sampling.min_p,
    "repetition_penalty": lambda row, sampling, scratch: sampling.repetition_penalty,
    "frequency_penalty": lambda row, sampling, scratch: sampling.frequency_penalty,
    "presence_penalty": lambda row, sampling, scratch: sampling.presence_penalty,
}
_OTHERS: dict[str, tuple[torch.dtype, Picker]] = {
    "do_sample": (torch.bool, lambda row, sampling, scratch: sampling.do_sample),
    "top_k": (torch.int64, lambda row, sampling, scratch: sampling.top_k),
    "keys": (
        torch.int32,
        lambda row, sampling, scratch: row_key(sampling.seed, sampling.choice, row.position),
    ),
    "ban_eos": (torch.bool, lambda row, sampling, scratch: row.position < sampling.min_new_tokens),
    "history": (torch.int64, lambda row, sampling, scratch: row.slot if penalises(sampling) else scratch),
    "counted": (
        torch.int64,
        lambda row, sampling, scratch: row.slot if row.sample and penalises(sampling) else scratch,
    ),
}
USED: dict[Level, tuple[str, ...]] = {
    Level.GREEDY: (),
    Level.NOISE: ("temperature", "do_sample", "keys"),
    Level.FULL: (*_FLOATS, *_OTHERS),
}
"""The inputs that each level takes, besides the logits."""


def inputs_of(
    rows: Sequence[tuple[Row, Sampling]], level: Level, batch: int, scratch: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The level's inputs, each [batch] (keys: [batch, 2]); padding rows are greedy and count in the scratch slot."""
    idle = Row(slot=scratch, ids=(), start=0, blocks=(), sample=False, position=0)
    padded = [*rows, *[(idle, Sampling())] * (batch - len(rows))]
    inputs = {}
    for name in USED[level]:
        kind, pick = (dtype, _FLOATS[name]) if name in _FLOATS else _OTHERS[name]
        inputs[name] = torch.tensor([pick(row, sampling, scratch) for row, sampling in padded], dtype=kind)
    return inputs


class Sampler:
    """The sampler of one model: `choose` is the planned function."""

    def __init__(self, history: History, is_eos: Tensor, dtype: torch.dtype) -> None:
        self.history = history
        self.is_eos = is_eos
        """[V] bool: the tokens that end a sequence."""
        self.dtype = dtype
        """What it computes in: float32, or float64 where the model does."""

    def planned(self, level: Level) -> Callable[..., tuple[Tensor, Tensor]]:
        """The function of a level: logits [B, V] and its inputs in; ids [B] and their log-probabilities [B] out."""

        def choose(logits: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
            logits = logits.to(self.dtype)
            if level is Level.FULL:
                logits = self._penalised(logits, inputs)
            ids = logits.argmax(-1)
            if level is not Level.GREEDY:
                ids = torch.where(inputs["do_sample"], self._sampled(logits, level, inputs), ids)
            if level is Level.FULL:
                self.history.add(inputs["counted"], ids)
            chosen = logits.gather(1, ids[:, None])[:, 0]
            return ids, chosen - logits.logsumexp(-1)

        return choose

    def _penalised(self, logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        counts = self.history.counts.index_select(0, inputs["history"])
        seen = self.history.prompt.index_select(0, inputs["history"]) | (counts > 0)
        penalty = inputs["repetition_penalty"][:, None]
        repeated = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen, repeated, logits)
        logits = logits - counts.to(self.dtype) * inputs["frequency_penalty"][:, None]
        logits = logits - (counts > 0).to(self.dtype) * inputs["presence_penalty"][:, None]
        return logits.masked_fill(inputs["ban_eos"][:, None] & self.is_eos, -torch.inf)

    def _sampled(self, logits: Tensor, level: Level, inputs: dict[str, Tensor]) -> Tensor:
        scores = logits / inputs["temperature"][:, None]
        scores = scores - scores.amax(-1, keepdim=True)
        if level is Level.FULL:
            scores = filtered(scores, inputs["top_k"], inputs["top_p"], inputs["min_p"], inputs["typical_p"])
        return (scores + gumbel(inputs["keys"], scores.shape[1]).to(self.dtype)).argmax(-1)
