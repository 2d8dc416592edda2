"""The buckets that vLLM's Gaudi plugin and TGI's Gaudi backend would warm up, and which one a launch would run in.

Written anew from their documentation and behaviour (vllm-gaudi of August 2026, TGI 3.3's Gaudi backend); the counts
that their own generators give are asserted in tests/plan/test_peers.py. vLLM's prefill buckets are (query,
context blocks before the query); decode buckets are (rows, blocks of all rows).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

BLOCK = 128
LONG_CONTEXT = 8192
"""From this model length on, vLLM's largest context of each query is what the model has left for it."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Server:
    """What the buckets are made from."""

    seqs: int
    length: int
    budget: int
    """Most tokens of a prefill step."""
    physical: int
    """KV blocks that fit into memory."""

    @property
    def longest(self) -> int:
        """Blocks of the longest sequence."""
        return -(-self.length // BLOCK)


@dataclass(frozen=True)
class Peer:
    """The buckets of a peer, each phase's in order."""

    name: str
    prefill: tuple[Pair, ...]
    decode: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.prefill) + len(self.decode)


def first_covering(buckets: tuple[Pair, ...], shape: Pair) -> Pair | None:
    """vLLM's lookup: the first in lexicographic order that covers the shape, not the cheapest."""
    start = bisect_left(buckets, shape)
    return next((b for b in buckets[start:] if b[0] >= shape[0] and b[1] >= shape[1]), None)


def cheapest_covering(buckets: tuple[Pair, ...], shape: Pair) -> Pair:
    """The bucket that covers the shape with the fewest blocks, then the fewest rows; ValueError if none does."""
    return min((b for b in buckets if b[0] >= shape[0] and b[1] >= shape[1]), key=lambda b: (b[1], b[0]))


def fallback(n: int, step: int) -> int:
    """What vLLM compiles while serving when it has no bucket for `n`."""
    if n <= 1:
        return n
    size = math.ceil(math.pow(n, 1 / 3)) * step
    return math.ceil(n / size) * size


def exponential(server: Server) -> Peer:
    """vLLM's default."""
    long = server.length >= LONG_CONTEXT
    most = max(1, (server.length - (server.budget if long else BLOCK)) // BLOCK)
    queries = _spread(BLOCK, BLOCK, server.budget, math.ceil(math.log2(server.budget)))
    contexts = _spread(0, 1, most, 2 if most == 1 else math.ceil(math.log2(most)) + 1)
    batches = _spread(1, 2, server.seqs, math.ceil(math.log2(server.seqs)) + 1)
    blocks = min(server.longest * server.seqs, 3 * server.physical)
    totals = _spread(1, server.seqs, blocks, math.ceil(math.log2(blocks)) + 1)
    return _vllm("exponential", server, queries, contexts, batches, totals)


def linear(server: Server) -> Peer:
    """vLLM's `lin`: powers of two up to the step, then multiples of it."""
    queries = _ramp(BLOCK, BLOCK, server.budget)
    contexts = [0, *_ramp(1, 1, (server.length - BLOCK) // BLOCK)]
    batches = _ramp(1, 32, server.seqs)
    totals = _ramp(1, BLOCK, max(server.length * server.seqs // BLOCK, BLOCK))
    return _vllm("linear", server, queries, contexts, batches, totals)


def padding_aware(server: Server) -> Peer:
    """vLLM's `pad`: multiples of the step, as few as keep padding below a quarter."""
    queries = _within(BLOCK, BLOCK, server.budget, math.ceil(server.budget / 4))
    contexts = _within(0, 2, math.ceil((server.length - BLOCK) / BLOCK), math.ceil(server.budget / BLOCK))
    batches = _within(1, 2, server.seqs, math.ceil(server.seqs / 4))
    blocks = max(math.ceil(server.length * server.seqs / BLOCK), BLOCK)
    totals = _within(BLOCK, BLOCK, blocks, math.ceil(blocks / 4))
    return _vllm("padding-aware", server, queries, contexts, batches, totals)


def tgi(server: Server, prompt: int, prefill_tokens: int) -> Peer:
    """TGI's: prefill buckets are (rows, tokens of the longest prompt), for whole prompts of up to `prompt` tokens."""
    rows = _filled(1, 1, server.seqs)
    lengths = _filled(BLOCK, BLOCK, prompt)
    aligned = -(-server.length // BLOCK) * BLOCK + math.ceil(BLOCK * BLOCK / server.seqs)
    totals = _filled(BLOCK, BLOCK, min(server.seqs * aligned // BLOCK, server.physical))
    return Peer(
        "TGI",
        tuple((b, q) for b in rows for q in lengths if b * q <= prefill_tokens),
        tuple((b, n) for b in rows for n in totals if b <= n),
    )


def _vllm(
    name: str,
    server: Server,
    queries: Iterable[int],
    contexts: list[int],
    batches: Iterable[int],
    totals: Iterable[int],
) -> Peer:
    """The products of the axes, as vLLM filters and caps them."""
    prefill = set()
    for query in queries:
        for context in contexts:
            edge = context == contexts[-1] and server.length >= LONG_CONTEXT
            blocks = (server.length - query) // BLOCK if edge else context
            if blocks <= math.ceil((server.length - 1) / BLOCK) and query <= min(
                server.length, server.budget
            ):
                prefill.add((query, blocks))
    decode = {(b, min(n, b * server.longest)) for b in batches for n in totals if b <= n}
    return Peer(name, tuple(sorted(prefill)), tuple(sorted(decode)))


def _spread(low: int, step: int, high: int, count: int) -> list[int]:
    """`count` values evenly spread on a logarithmic scale, rounded up to the step; 0 and 1 are added in front."""
    if count <= 1:
        return [high]
    first = step if low <= 1 else low
    powers = (first * math.pow(high / first, i / (count - 1)) for i in range(count))
    values = {math.ceil(round(power, 9) / step) * step for power in powers}
    return sorted({min(value, high) for value in values} | ({low} if low <= 1 else set()))


def _ramp(low: int, step: int, high: int) -> list[int]:
    doubled = [low << i for i in range(high.bit_length()) if low << i < min(step, high + 1)]
    return doubled + list(range(step, high + 1, step))


def _within(low: int, step: int, high: int, most: int, share: float = 0.25) -> list[int]:
    values, current = [low], low
    while current <= high:
        last = values[-1]
        if current <= step:
            following = max(1, 2 * last)
            if following <= high:
                values.append(following)
        else:
            following = current + step
            padding = following - last - 1
            if current != last and (padding / following > share or padding > most or current % most == 0):
                values.append(current)
        current = following
    return values if values[-1] == high else [*values, high]


def _filled(low: int, step: int, high: int) -> list[int]:
    """TGI's axis: evenly spread on a logarithmic scale; a value that is there already becomes the nearest free one."""
    count, free = math.ceil(math.log2(high)) + 1, set(range(low, high + 1, step))
    values: set[int] = set()
    for i in range(count):
        power = low * math.pow(high / low, 1 / (count - 1) * i)
        value = min(math.ceil(power / step) * step, high)  # not rounded first: its 8.000000000000002 is a 9
        if value in values:
            if not free - values:
                break
            value = min(sorted(free - values), key=lambda each: abs(each - power))
        values.add(value)
    return sorted(values)
