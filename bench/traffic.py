"""Made traffic and the launches that a server of it makes: shapes alone, in a closed loop with a cost model's clock.

The server: FCFS, `Limits.slots` sequences, blocks reserved for the whole sequence at admission. A step decodes every
running sequence once and prefills chunks, one prompt a launch, of at most `prefill_chunk` tokens in all, decoded ones
included, as vLLM does. The clock counts launches without padding, so that every plan is scored on the same launches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.cost import CostModel
from models.plan import Limits, seconds


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, in tokens."""

    prompt: int
    cached: int
    """Of the prompt's tokens, those that the prefix cache holds; whole blocks, never the last token."""
    output: int
    arrival: float = 0.0
    """Seconds."""


@dataclass(frozen=True)
class Launches:
    """How often each shape was launched."""

    prefill: Counter[tuple[int, int]]
    """(tokens of the chunk, cache positions before it)."""
    decode: Counter[tuple[int, int]]
    """(rows, blocks of all rows)."""
    prompts: Counter[int]
    """Whole prompts, as a server without chunks and prefix cache launches them."""


def sharegpt(rng: np.random.Generator, count: int, longest: int) -> list[Request]:
    """Short questions, medium answers."""
    prompts = _lognormal(rng, count, 150, 1.3, 4, longest // 2)
    outputs = _lognormal(rng, count, 200, 0.9, 1, 1024)
    return [Request(int(p), 0, int(o)) for p, o in zip(prompts, outputs, strict=True)]


def rag(rng: np.random.Generator, count: int, longest: int) -> list[Request]:
    """Documents and a question about them; half of the documents were asked about before."""
    prompts = _lognormal(rng, count, 0.45 * longest, 0.45, 512, int(0.94 * longest))
    outputs = _lognormal(rng, count, 120, 0.7, 8, longest // 20)
    shared = rng.choice([0.0, 0.3, 0.9], size=count, p=[0.5, 0.2, 0.3])
    return [
        Request(int(p), _blocks(int(p * share)), int(o))
        for p, o, share in zip(prompts, outputs, shared, strict=True)
    ]


def chat(rng: np.random.Generator, count: int, longest: int) -> list[Request]:
    """Conversations: each turn brings the history along, most of which the prefix cache still holds."""
    found: list[Request] = []
    while len(found) < count:
        history, turns = int(rng.integers(100, longest // 8)), 1 + int(rng.geometric(1 / (longest / 1024)))
        for turn in range(turns):
            said, answer = (
                int(_lognormal(rng, 1, 50, 1.0, 2, 1500)[0]),
                int(_lognormal(rng, 1, 220, 0.8, 1, 1024)[0]),
            )
            if history + said + answer > longest:
                break
            kept = turn > 0 and rng.random() < 0.9
            found.append(Request(history + said, _blocks(history) if kept else 0, answer))
            history += said + answer
    return [found[i] for i in rng.permutation(len(found))[:count]]


TRAFFIC: dict[str, Callable[[np.random.Generator, int, int], list[Request]]] = {
    "sharegpt": sharegpt,
    "rag": rag,
    "chat": chat,
    "light": sharegpt,
}


def trace(name: str, seed: int, count: int, load: float, limits: Limits, costs: CostModel) -> list[Request]:
    """Requests of that kind, arriving at random at so much of the rate that saturates the server."""
    rng = np.random.default_rng([seed, *name.encode()])
    requests = TRAFFIC[name](rng, count, limits.max_total_tokens - 1)
    rate = load * count / sum_of(requests, limits, costs)
    arrivals = np.cumsum(rng.exponential(1 / rate, size=len(requests)))
    return [replace(each, arrival=float(at)) for each, at in zip(requests, arrivals, strict=True)]


def sum_of(requests: list[Request], limits: Limits, costs: CostModel) -> float:
    """Seconds that the server takes for all of them if they wait at the door together."""
    server = _Server(requests, limits, costs)
    server.run()
    return server.clock


def launches(requests: list[Request], limits: Limits, costs: CostModel) -> Launches:
    """What the server launches for them."""
    server = _Server(requests, limits, costs)
    server.run()
    prompts = Counter(each.prompt for each in requests)
    return Launches(server.prefill, server.decode, prompts)


class _Server:
    """Runs requests to their end and counts its launches."""

    def __init__(self, requests: list[Request], limits: Limits, costs: CostModel) -> None:
        self.clock, self.prefill, self.decode = 0.0, Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        self._limits, self._costs = limits, costs
        self._waiting = list(reversed(requests))
        self._prefilling: list[tuple[int, int]] = []  # (index of its slot, tokens in the cache)
        self._held: list[Request | None] = [None] * limits.slots
        self._length = np.zeros(limits.slots, dtype=np.int64)  # of rows that decode, else 0
        self._left = np.zeros(limits.slots, dtype=np.int64)
        self._reserved = 0

    def run(self) -> None:
        """Until nothing is left."""
        while self._waiting or any(self._held):
            self._admit()
            rows = int(np.count_nonzero(self._length))
            if rows:
                self._decode(rows)
            self._chunks(self._limits.prefill_chunk - rows)
            if not rows and not any(self._held) and self._waiting:
                self.clock = max(self.clock, self._waiting[-1].arrival)

    def _admit(self) -> None:
        while self._waiting and self._waiting[-1].arrival <= self.clock and None in self._held:
            request = self._waiting[-1]
            need = self._limits.blocks_of(request.prompt + request.output)
            if self._reserved + need > self._limits.usable_blocks:
                return
            self._reserved += need
            slot = self._held.index(None)
            self._held[slot] = self._waiting.pop()
            self._prefilling.append((slot, request.cached))

    def _decode(self, rows: int) -> None:
        self._length[self._length > 0] += 1
        shape = rows, int((-(-self._length // self._limits.block_size)).sum())
        self.decode[shape] += 1
        self.clock += seconds(self._costs, self._limits, "decode", *shape)
        self._left[self._length > 0] -= 1
        for slot in np.flatnonzero((self._length > 0) & (self._left <= 0)):
            self._leave(int(slot))

    def _chunks(self, budget: int) -> None:
        while self._prefilling and budget > 0:
            slot, start = self._prefilling.pop(0)
            request = self._held[slot]
            assert request is not None
            tokens = min(budget, request.prompt - start)
            budget -= tokens
            self.prefill[tokens, start] += 1
            blocks = self._limits.blocks_of(start + tokens)
            self.clock += seconds(self._costs, self._limits, "prefill", tokens, blocks)
            if start + tokens < request.prompt:
                self._prefilling.insert(0, (slot, start + tokens))
            elif request.output == 1:
                self._leave(slot)
            else:
                self._length[slot], self._left[slot] = request.prompt, request.output - 1

    def _leave(self, slot: int) -> None:
        request = self._held[slot]
        assert request is not None
        self._reserved -= self._limits.blocks_of(request.prompt + request.output)
        self._held[slot], self._length[slot] = None, 0


def _lognormal(
    rng: np.random.Generator, count: int, median: float, sigma: float, low: int, high: int
) -> NDArray[np.int64]:
    values = rng.lognormal(np.log(median), sigma, size=count)
    return np.clip(values, low, high).astype(np.int64)


def _blocks(tokens: int, size: int = 128) -> int:
    return tokens // size * size
