"""Choosing tokens, over [B, V] in one pass of fixed shapes: no sort, no truncation, nothing read back by the host.

The host picks the cheapest planned level (models/levels.py) that a step needs. They agree: a row whose parameters
are neutral gets the same token at every level, for each operation is then exact (x / 1, x + 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.captured import Outputs
from models.filters import NEVER, filtered, masked
from models.history import History
from models.levels import Part
from models.noise import gumbel
from models.ranks import likeliest
from models.step import Sampled
from models.watermark import Watermark
from models.wishes import LATEST, Floats, Ints

MOST_TOKENS = 1 << 24
"""Ids travel to the host beside their log-probabilities, in float32, which is exact below this."""
MOST_TOP_N = 20
"""Tokens of a top-n report: OpenAI's most (TGI's is 5). A constant, so that any n is the same program."""

IS_NAN = "the model computed NaN: serve it in bfloat16 or float32"


def check_vocab(vocab_size: int) -> None:
    """ValueError, as a sentence, for a vocabulary whose ids the sampler could not report."""
    if vocab_size > MOST_TOKENS:
        raise ValueError(
            f"a vocabulary of {vocab_size} tokens cannot be sampled: float32 holds ids below {MOST_TOKENS}"
        )


class Sampler:
    """The sampler of one model, with its state by slot; the last slot is scratch."""

    def __init__(
        self,
        slots: int,
        vocab_size: int,
        eos_ids: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        watermark: Watermark | None = None,
    ) -> None:
        """Without a `watermark` no level that has one can be run."""
        self._watermark = watermark
        self.dtype = dtype
        """What it computes in: float32, or float64 where the model does."""
        self.history = History(slots, vocab_size, eos_ids, dtype, device)
        self.tokens = torch.zeros(slots + 1, dtype=torch.int64, device=device)
        """[slots + 1]: the token chosen last, which the next decode step of the slot reads on the device."""

    def planned(self, level: Part) -> Callable[..., Outputs]:
        """The function of a level: logits [B, V] and its inputs in, one tensor out for `report` to read.

        [B, 2]: id and log-probability; with TOP_N [B, 2 + 2K]: also the K likeliest ids and theirs. `allowed` is an
        input of levels with MASK alone: see models.step.Allowed.
        """

        def choose(logits: Tensor, floats: Tensor, ints: Tensor, allowed: Tensor | None = None) -> Outputs:
            f: Floats[Tensor] = Floats(*torch.split(floats, 1, dim=1))
            i: Ints[Tensor] = Ints(*torch.split(ints, 1, dim=1))
            logits = logits.to(self.dtype)
            if Part.WATERMARK in level:
                logits = self._marked(logits, i)
            if Part.EDIT in level:
                logits = self._edited(logits, f, i)
            if allowed is not None:
                logits = masked(logits, allowed)
            ids = logits.argmax(-1, keepdim=True)
            if Part.NOISE in level:
                ids = torch.where(i.do_sample != 0, _drawn(logits, level, f, i), ids)
            if Part.EDIT in level:
                self.history.add(i.past, ids, i.times)
            self.tokens.index_copy_(0, i.slot[:, 0].long(), ids[:, 0])
            return (_reported(logits, ids, Part.TOP_N in level),)

        return choose

    def _marked(self, logits: Tensor, i: Ints[Tensor]) -> Tensor:
        """The logits with the watermark, before anything else is done to them, as in TGI."""
        assert self._watermark is not None, "the level is not planned without one"
        latest = self.tokens.index_select(0, i.slot[:, 0].long()).to(torch.int32)[:, None]
        previous = torch.where(i.previous == LATEST, latest, i.previous)
        return self._watermark.marked(logits, previous, i.watermark)

    def _edited(self, logits: Tensor, f: Floats[Tensor], i: Ints[Tensor]) -> Tensor:
        """The logits, made finite, with biases, penalties and bans."""
        logits = logits.clamp_min(NEVER)
        return self.history.edited(logits, i.past, i.ban_ends, f.repetition, f.frequency, f.presence)


def _drawn(logits: Tensor, level: Part, f: Floats[Tensor], i: Ints[Tensor]) -> Tensor:
    """A token per row [B, 1] from the distribution that temperature and filters leave of the logits."""
    scores = logits / f.temperature
    scores -= scores.amax(-1, keepdim=True)
    scores = filtered(scores, level, i.top_k, f.top_p, f.lowest, f.typical_p)
    scores += gumbel(torch.cat([i.key_high, i.key_low], dim=1), scores.shape[1])
    return scores.argmax(-1, keepdim=True)


def _reported(logits: Tensor, ids: Tensor, top: bool) -> Tensor:
    """What the host reads, in one tensor so that it is one copy: ids are exact in it, see MOST_TOKENS."""
    logprobs = logits.log_softmax(-1)
    columns = [ids, logprobs.gather(1, ids)]
    if top:
        best = likeliest(logits, min(MOST_TOP_N, logits.shape[1]))
        columns += [best, logprobs.gather(1, best)]
    return torch.cat([column.to(logits.dtype) for column in columns], dim=1)


def report(chosen: Sequence[float], top_n: int) -> Sampled:
    """One row of what a level gave; FloatingPointError if the model computed NaN."""
    token, logprob, *top = chosen
    if math.isnan(logprob):
        raise FloatingPointError(IS_NAN)
    half = len(top) // 2
    pairs = zip(map(int, top[:half]), top[half:], strict=True)
    possible = tuple(pair for pair in pairs if pair[1] > NEVER / 2)
    return Sampled(int(token), logprob, possible[:top_n])
