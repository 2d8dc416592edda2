"""What a sequence's own past and wishes do to its logits: penalty counts, biases and ends, by slot, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.captured import Outputs
from models.filters import NEVER
from models.step import Sampling

ENDS = -(1 << 31)
"""The sign bit of `History.seen`: the token would end the slot's sequence."""
COUNTS = (1 << 31) - 1
"""Its other bits."""


class History:
    """One row per slot, and a scratch row for sequences without bias, penalties and stop tokens of their own.

    The bias is a dense table: its row is written by the same program as the counts, may name any number of tokens,
    and is added without a scatter; it costs 4 bytes per slot and token, 8 MB for 16 slots of a 128k vocabulary.
    """

    def __init__(
        self, slots: int, vocab_size: int, eos_ids: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._eos_ids = tuple(eos_ids)
        self.seen = torch.zeros((slots + 1) * vocab_size, dtype=torch.int32, device=device)
        """Of slots + 1 rows [V], one after another: twice the token's occurrences in the output, plus 1 if the prompt
        has it; negative if the token ends the sequence. Flat, for it is written by token too, and no captured program
        may write through a view."""
        self.bias = torch.zeros(slots + 1, vocab_size, dtype=dtype, device=device)
        self.write(**{name: row.to(device) for name, row in self.rows_of(slots, (), (), Sampling()).items()})

    def write(self, slot: Tensor, seen: Tensor, bias: Tensor) -> Outputs:
        """Planned: give the slot [1] to a sequence, whatever it held before; the rows are [1, V]."""
        vocab = torch.arange(seen.shape[1], device=slot.device)
        self.seen.index_copy_(0, slot * seen.shape[1] + vocab, seen[0])
        self.bias.index_copy_(0, slot, bias)
        return ()

    def rows_of(
        self, slot: int, prompt: Sequence[int], output: Sequence[int], sampling: Sampling
    ) -> dict[str, Tensor]:
        """The inputs of `write`, made on the host: of one shape, however many tokens the sequence has."""
        vocab = self.bias.shape[1]
        seen = 2 * np.bincount(np.array(output, np.int64), minlength=vocab).astype(np.int32)
        seen[np.array(prompt, np.int64)] += 1  # once, however often it is there
        seen[[*self._eos_ids, *sampling.stop_token_ids]] |= ENDS
        bias = np.zeros(vocab)
        for token, value in sampling.logit_bias:
            bias[token] = value
        rows = {"slot": np.array([slot]), "seen": seen[None], "bias": bias[None]}
        tensors = {name: torch.from_numpy(row) for name, row in rows.items()}
        return tensors | {"bias": tensors["bias"].to(self.bias.dtype)}

    def edited(
        self,
        logits: Tensor,
        slots: Tensor,
        ban_ends: Tensor,
        repetition: Tensor,
        frequency: Tensor,
        presence: Tensor,
    ) -> Tensor:
        """The finite logits [B, V] with the biases of the slots and these penalties on their counts, all [B, 1].

        Bias comes first, as in transformers and vLLM, and last, where `ban_ends` is 1, a ban of what would end the
        sequence. Arithmetic instead of `torch.where`, which is ten times slower on a CPU; neutral values change
        nothing, to the bit: x + 0, x / 1, and lerp between equals.
        """
        rows = slots[:, 0].long()
        logits = logits + self.bias.index_select(0, rows)
        seen = self.seen.view(self.bias.shape).index_select(0, rows)
        ends = (seen >> 31).to(logits.dtype)  # -1 where the token is one
        seen &= COUNTS
        repeated = logits.clamp_min(0) / repetition + logits.clamp_max(0) * repetition
        logits = torch.lerp(logits, repeated, seen.clamp_max(1).to(logits.dtype))
        counts = seen >> 1
        logits -= counts.to(logits.dtype) * frequency
        logits -= counts.clamp_max_(1).to(logits.dtype) * presence
        logits += ends * (ban_ends.to(logits.dtype) * -NEVER)
        return logits

    def add(self, slots: Tensor, tokens: Tensor, times: Tensor) -> None:
        """Count the tokens so many times (0 or 1, int32) in the outputs of their slots; all are [B, 1]."""
        index = slots * self.bias.shape[1] + tokens
        self.seen.index_add_(0, index[:, 0], 2 * times[:, 0])
