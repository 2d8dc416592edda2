"""The likeliest tokens of each row, in one order on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def likeliest(logits: Tensor, n: int) -> Tensor:
    """The ids [B, n] of the n likeliest tokens, n <= V; of equals the lowest id first.

    `topk` leaves open which of equal tokens it takes and in what order: those on the last place are taken anew.
    """
    values, ids = logits.topk(n)
    last = values[:, -1:]
    above = (values > last).sum(-1, keepdim=True)
    place = torch.arange(n, device=logits.device) - above
    ids = torch.where(place < 0, ids, _lowest(logits, last, n).gather(1, place.clamp_min(0)))
    ids = ids.sort(-1).values
    order = logits.gather(1, ids).argsort(dim=-1, descending=True, stable=True)
    return ids.gather(1, order)


def _lowest(logits: Tensor, value: Tensor, n: int) -> Tensor:
    """The n lowest ids whose logits are this value [B, 1], in order, padded; ids even if it is NaN."""
    vocab_size = logits.shape[1]
    token = torch.arange(vocab_size, dtype=torch.int32, device=logits.device)
    others_last = (logits != value).to(torch.int32) * vocab_size + token
    return others_last.topk(n, largest=False, sorted=True).values.clamp_max(vocab_size - 1).to(torch.int64)
