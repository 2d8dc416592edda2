"""How many KV blocks an accelerator has room for: found by a trial, told in numbers, and kept for the next start.

A trial runs the largest programs over a pool of one block, which is what they all read and write on padding. What they
compute with, and what their captured forms keep, is not for the pools.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from models.errors import ModelRefused
from models.plan import Bucket, Limits

GIB, MIB = 2**30, 2**20
FILE = "start.json"
"""In the folder of recipes."""


@dataclass(frozen=True, slots=True)
class Need:
    """What serving takes besides weights and KV pools, in bytes."""

    step: int
    """The most that one step computes with."""
    bucket: int
    """The most that the programs of one bucket keep."""

    def of(self, buckets: int) -> int:
        """In all."""
        return self.step + self.bucket * buckets


@dataclass(frozen=True, slots=True)
class Budget:
    """The room of one device, for a plan of so many buckets."""

    free: int
    """Bytes that neither weights nor the sampler's state take."""
    need: Need
    buckets: int

    @property
    def left(self) -> int:
        """For the KV pools."""
        return self.free - self.need.of(self.buckets)

    def check(self, blocks: int, block_bytes: int, tokens: int = 0) -> None:
        """ModelRefused, with the numbers and what would fit, if so many blocks do not.

        They are KV_BLOCKS, or, if the `tokens` of a block are given, what one sequence of MAX_TOTAL_TOKENS takes.
        """
        pools = blocks * block_bytes
        if pools <= self.left:
            return
        graphs = (self.free - self.need.step - pools) // max(1, self.need.bucket)
        fit = self.left // block_bytes
        least = (
            f"MAX_TOTAL_TOKENS to at most {(fit - 1) * tokens}" if tokens else f"KV_BLOCKS to at most {fit}"
        )
        ways = [least] if fit >= 2 else []
        ways += [f"GRAPHS to at most {graphs}"] if graphs >= 3 else []
        raise ModelRefused(
            f"the warm-up would not fit: a step takes {in_words(self.need.step)}, {self.buckets} buckets "
            f"{in_words(self.need.bucket * self.buckets)} and {blocks} KV blocks {in_words(pools)}, where "
            f"{in_words(self.free)} are free: set {' or '.join(ways) or 'PREFILL_CHUNK lower, or use more cards'}"
        )


def in_words(size: int) -> str:
    """Bytes, for people."""
    return f"{size / GIB:.2f} GiB" if size >= GIB // 10 else f"{size / MIB:.2f} MiB"


@dataclass(frozen=True, slots=True)
class Start:
    """What a start came to. The next one takes it over, so that it finds its recipes again."""

    limits: Limits
    buckets: tuple[Bucket, ...]
    need: Need
    device: str
    """On which: another card, software or strategy needs something else."""

    def save(self, folder: str) -> None:
        """Write it, whole or not at all; a folder that cannot be written costs the next start its recipes."""
        if not folder:
            return
        path = Path(folder) / FILE
        text = json.dumps(
            {
                "limits": asdict(self.limits),
                "buckets": [astuple(bucket) for bucket in self.buckets],
                "need": asdict(self.need),
                "device": self.device,
            }
        )
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(path)


def last_start(folder: str, device: str) -> Start | None:
    """What the last start on such a device came to; None if there was none, or nothing that can be read."""
    if not folder:
        return None
    try:
        kept: dict[str, Any] = json.loads((Path(folder) / FILE).read_text())
        buckets = tuple(Bucket(*bucket) for bucket in kept["buckets"])
        start = Start(Limits(**kept["limits"]), buckets, Need(**kept["need"]), kept["device"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return start if start.device == device else None
