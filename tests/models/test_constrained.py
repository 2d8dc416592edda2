"""Random grammars through real engines: whatever ends is what was asked for, whoever leaves, gives way or dies."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.demo import WEIGHTS
from tests.support.engines import DEADLINE, Talk, engine
from tests.support.grammars import check, grammars
from wire.tokenizer import Tokenizer

Maker = Callable[[str], Path]

NEW = 300
"""Tokens at most: what has not ended by then proves nothing."""
LIMITS: dict[str, Any] = {
    "slots": 8,
    "max_total_tokens": 320,
    "prefill_chunk": 64,
    "block_size": 16,
    "kv_blocks": 22,
    "graphs": 8,
}
"""Eight sequences share 21 blocks, of which one may have 20: somebody is preempted all the time."""


class Clients:
    """All of them at once, some of whom leave, before and after their engine is killed."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.tokenizer = Tokenizer.from_folder(folder)
        self.grammars = grammars(count, seed)
        self.prompt = self.tokenizer.encode("Once upon a time")
        self.output: dict[int, list[int]] = {seq: [] for seq in range(count)}
        self.gone: set[int] = set()
        """Those that were aborted or have ended."""

    def admit(self, talk: Talk) -> None:
        """Everybody who is still here, with what they have so far."""
        for seq in self.output.keys() - self.gone:
            chance = random.Random(seq)
            talk.admit(
                seq,
                self.prompt,
                NEW,
                self.output[seq],
                grammar=self.grammars[seq],
                do_sample=seq % 5 > 0,
                temperature=chance.choice([0.7, 1.0, 1.5]),
                top_p=chance.choice([1.0, 1.0, 0.95]),
                repetition_penalty=chance.choice([1.0, 1.1]),
            )

    def live(self, talk: Talk, until: float) -> None:
        """Until this share of all is gone; one in ten leaves before."""
        leaving = sorted(seq for seq in self.output.keys() - self.gone if self.chance.random() < 0.1)

        def enough() -> bool:
            self.gone |= {*talk.left, *talk.failed}
            if leaving and self.chance.random() < 0.1:
                seq = leaving.pop()
                self.gone.add(seq)
                talk.abort(seq)
            return len(self.gone) >= until * len(self.output)

        talk.listen(enough, max(DEADLINE, 2.0 * len(self.output)))
        self.output |= talk.tokens


def texts(folder: Path, count: int, seed: int, **spec: Any) -> int:
    """Check all that ended; how many did, of the grammars that nobody gave up."""
    clients = Clients(folder, count, seed)
    eos: set[int] = set()
    for until in (0.4, 1.0):
        with engine(str(folder), **LIMITS, **spec) as talk:
            assert talk.ready
            eos |= {*talk.ready.eos_ids}
            clients.admit(talk)
            clients.live(talk, until)
            assert not talk.failed
            assert {step.compilations for step in talk.steps} == {0}
            assert min(step.free_blocks for step in talk.steps) <= 2
            talk.process.kill()
    ended = [seq for seq, output in clients.output.items() if output and output[-1] in eos]
    for seq in ended:
        check(clients.grammars[seq], clients.tokenizer.decode(clients.output[seq][:-1]))
    return len(ended)


@pytest.mark.parametrize(
    ("count", "seed"), [(26, 1), pytest.param(250, 2, marks=pytest.mark.full)], ids=["few", "many"]
)
class TestRandomGrammars:
    def test_of_the_demo_model(self, count: int, seed: int) -> None:
        assert texts(WEIGHTS, count, seed, dtype="float32") > count / 3

    def test_of_a_random_model(self, count: int, seed: int, model_of: Maker) -> None:
        assert texts(model_of("llama"), count, seed, dtype="float32", depth=2) > count / 2
