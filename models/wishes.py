"""What the sequence of each slot asked of the sampler, as rows of host arrays: a step's inputs are a choice of rows.

Written when a slot is opened, so that a step costs the host a few array operations however many rows it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from models.filters import ALL, LOWEST
from models.levels import LEVELS, Part, has_state, level_for, parts_of, penalises
from models.noise import row_keys
from models.step import Row, Sampling

TINY_TEMPERATURE = 1e-4
"""Below it a temperature would only overflow: the noise no longer reaches the second-likeliest token."""
MOST_PENALTY = 1e4
"""A repetition penalty beyond it, or below its inverse, would only overflow."""

Value = TypeVar("Value")


class Floats(NamedTuple, Generic[Value]):
    """The columns of the input `floats`: of one row on the host, each [B, 1] on the device."""

    temperature: Value
    top_p: Value
    lowest: Value
    """log(min_p): the lowest score that stays."""
    typical_p: Value
    repetition: Value
    frequency: Value
    presence: Value


class Ints(NamedTuple, Generic[Value]):
    """The columns of the input `ints`, likewise. Some hang on the step too: `Wishes.inputs` sets them."""

    key_high: Value
    key_low: Value
    do_sample: Value
    top_k: Value
    past: Value
    """The slot whose biases, counts and ends apply."""
    ban_ends: Value
    slot: Value
    """Where the chosen token goes."""
    times: Value
    """How often the token is counted in the past, 0 or 1."""
    previous: Value
    """The token before; LATEST: the one that the slot sampled last."""
    watermark: Value


LATEST = -1

_KEYS = slice(0, 2)
_BAN, _SLOT, _TIMES, _PREVIOUS = map(Ints._fields.index, ("ban_ends", "slot", "times", "previous"))


class Wishes:
    """One row per slot, and a neutral one for padding: the scratch slot's."""

    def __init__(self, slots: int, dtype: torch.dtype, levels: tuple[Part, ...] = LEVELS) -> None:
        """`levels` are those that are planned."""
        self._scratch, self._dtype, self._levels = slots, dtype, levels
        self._floats = np.zeros((slots + 1, len(Floats._fields)))
        self._ints = np.zeros((slots + 1, len(Ints._fields)), np.int32)
        self._seeds, self._min_new_tokens = np.zeros((2, slots + 1), np.uint64)
        self._parts = np.zeros(slots + 1, np.int64)
        self.top_n = [0] * (slots + 1)
        """How many of the likeliest tokens each slot's sequence wants to see."""
        for slot in range(slots + 1):
            self.set(slot, Sampling())

    def set(self, slot: int, sampling: Sampling) -> None:
        """The slot is a sequence's with these wishes."""
        self._floats[slot] = _floats(sampling)
        self._ints[slot] = Ints(
            key_high=0,
            key_low=0,
            do_sample=sampling.do_sample,
            top_k=min(sampling.top_k or ALL, ALL),
            past=slot if has_state(sampling) else self._scratch,
            ban_ends=0,
            slot=slot,
            times=penalises(sampling),
            previous=LATEST,
            watermark=sampling.watermark,
        )
        self._seeds[slot] = sampling.seed
        self._min_new_tokens[slot] = 0 if sampling.constrained else sampling.min_new_tokens
        self._parts[slot] = parts_of(sampling)
        self.top_n[slot] = sampling.top_n

    def level(self, rows: Sequence[Row]) -> Part:
        """The cheapest planned level that can do what those of the rows ask for that sample."""
        slots = [row.slot for row in rows if row.sample]
        positions = np.array([row.position for row in rows if row.sample], np.uint64)
        parts = Part(int(np.bitwise_or.reduce(self._parts[slots])))
        bans = bool((positions < self._min_new_tokens[slots]).any())
        return level_for(parts | Part.EDIT if bans else parts, self._levels)

    def inputs(self, rows: Sequence[Row], batch: int) -> dict[str, Tensor]:
        """The inputs of every level: floats [batch, 7], ints [batch, 10] int32; padding rows are greedy, in scratch."""
        count = len(rows)
        slots = np.full(batch, self._scratch)
        slots[:count] = [row.slot for row in rows]
        positions = np.zeros(batch, np.uint64)
        positions[:count] = [row.position for row in rows]
        sample = np.zeros(batch, bool)
        sample[:count] = [row.sample for row in rows]
        ints = self._ints[slots]
        ints[:, _KEYS] = row_keys(self._seeds[slots], positions)
        ints[:, _BAN] = positions < self._min_new_tokens[slots]
        ints[~sample, _SLOT] = self._scratch
        ints[~sample, _TIMES] = 0
        ints[:count, _PREVIOUS] = [row.ids[-1] if row.ids else LATEST for row in rows]
        floats = torch.from_numpy(self._floats[slots]).to(self._dtype)
        return {"floats": floats, "ints": torch.from_numpy(ints)}


def _floats(sampling: Sampling) -> Floats[float]:
    return Floats(
        temperature=max(sampling.temperature, TINY_TEMPERATURE),
        top_p=sampling.top_p,
        lowest=math.log(sampling.min_p) if sampling.min_p > 0 else LOWEST,
        typical_p=sampling.typical_p,
        repetition=min(max(sampling.repetition_penalty, 1 / MOST_PENALTY), MOST_PENALTY),
        frequency=sampling.frequency_penalty,
        presence=sampling.presence_penalty,
    )
