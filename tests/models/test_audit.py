"""Nothing is compiled after warm-up, and the host waits for the device once per step: over random traffic."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from models.load import load
from models.plan import LAYOUTS
from models.runner import PagedRunner
from models.step import LoadSpec, Sampling
from tests.models.audit import Audit, Signatures
from tests.models.drive import Driver, quiet, sequence
from tests.models.test_exactness import SERVED
from tests.support import tiny
from worker.sequence import Sequence

# transformers 4.55 scripts a function of GPTBigCode when it is imported, and torch 2.13 says that this will go.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

Maker = Callable[[str], Path]

MECHANISMS = {"dense": "llama", "window": "mistral-window", "experts": "mixtral", "latent": "deepseek_v3"}
"""What differs between forwards, and a tiny model of each."""


def small(folder: Path, layout: str, depth: int) -> PagedRunner:
    """A runner so scarce in blocks that somebody is preempted every so often."""
    spec = LoadSpec(
        model_id=str(folder),
        dtype="float32",
        slots=4,
        kv_blocks=9,
        max_total_tokens=96,
        prefill_chunk=32,
        prefill_batch=3,
        layout=layout,
        watermark_gamma=0.5,
        depth=depth,
        graphs=16,
    )
    return load(spec, quiet)


class Traffic:
    """Random requests: most of them unlike any before, some beginning alike, some leaving early."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.chance = count, random.Random(seed)

    def requests(self) -> Iterator[Sequence]:
        chance = self.chance
        shared = [chance.randrange(3, tiny.VOCAB) for _ in range(40)]
        for _ in range(self.count):
            prompt = [chance.randrange(3, tiny.VOCAB) for _ in range(chance.randint(1, 60))]
            if chance.random() < 0.3:
                prompt = shared[: chance.randint(1, 40)] + prompt[:20]
            scored = chance.random() < 0.1
            yield sequence(prompt, chance.randint(1, 16), self.sampling(), prompt_logprobs=scored)

    def sampling(self) -> Sampling:
        """Each parameter neutral, or anything that is allowed."""
        chance = self.chance
        some: dict[str, Any] = {
            "temperature": chance.uniform(0.1, 2),
            "top_k": chance.randint(1, 300),
            "top_p": chance.uniform(0.05, 1),
            "typical_p": chance.uniform(0.05, 1),
            "min_p": chance.uniform(0, 0.5),
            "repetition_penalty": chance.uniform(0.5, 2),
            "frequency_penalty": chance.uniform(-2, 2),
            "presence_penalty": chance.uniform(-2, 2),
            "min_new_tokens": chance.randint(0, 5),
            "stop_token_ids": tuple(chance.randrange(tiny.VOCAB) for _ in range(chance.randint(1, 4))),
            "logit_bias": tuple((chance.randrange(tiny.VOCAB), chance.uniform(-5, 5)) for _ in range(3)),
            "watermark": True,
            "top_n": chance.randint(1, 5),
            "constrained": True,
        }
        chosen = {name: value for name, value in some.items() if chance.random() < 0.15}
        return Sampling(seed=chance.getrandbits(63), do_sample=chance.random() < 0.6, **chosen)

    def run(self, driver: Driver) -> None:
        """Arrivals in bursts, some cancelled on their way."""
        pending = list(self.requests())
        alive: list[Sequence] = []
        while pending or driver.scheduler.busy:
            for _ in range(self.chance.choice((0, 0, 0, 1, 3))):
                if pending:
                    alive.append(pending.pop())
                    driver.admit(alive[-1])
            driver.step()
            alive = [each for each in alive if not each.ended]
            if alive and self.chance.random() < 0.01:
                driver.scheduler.abort(alive.pop(self.chance.randrange(len(alive))))


EVERY_TIME = {("experts", "gather"), ("latent", "flat")}
LONG = EVERY_TIME | {("dense", "gather"), ("window", "flat")}


@pytest.mark.parametrize(
    ("mechanism", "layout", "count"),
    [
        *(pytest.param(*case, 150) for case in sorted(EVERY_TIME)),
        *(
            pytest.param(*case, 5000 if case in LONG else 300, marks=pytest.mark.full)
            for case in product(MECHANISMS, LAYOUTS)
        ),
    ],
)
def test_random_traffic_brings_nothing_new_and_one_wait_per_step(
    mechanism: str, layout: str, count: int, model_of: Maker
) -> None:
    audit = Audit(small(model_of(MECHANISMS[mechanism]), layout, depth=1 + (layout == "flat")))
    driver = Driver(audit.runner)
    Traffic(count, seed=len(mechanism)).run(driver)
    assert audit.new == set()
    assert audit.waits.total() == audit.reads.total() == 0
    assert audit.runner.compilations == 0
    assert {reads for phase, reads in audit.reads_of_step if phase != "score"} <= {0, 1}
    assert {reads for phase, reads in audit.reads_of_step if phase == "score"} <= {1, 2}  # and its scores
    assert audit.steps > count
    assert driver.scheduler.preemptions > 0
    assert driver.scheduler.hit_tokens > 0


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", sorted({*SERVED} - {*MECHANISMS.values()}))
def test_no_family_brings_anything_new(variant: str, layout: str, model_of: Maker) -> None:
    audit = Audit(small(model_of(variant), layout, depth=2))
    Traffic(40, seed=1).run(Driver(audit.runner))
    assert audit.new == set()
    assert audit.waits.total() == audit.reads.total() == 0


class TestAuditor:
    """It finds what it is there to find."""

    def test_a_new_shape(self) -> None:
        signatures = Signatures()
        with signatures:
            torch.ones(3) + 1
        warm = set(signatures.seen)
        with signatures:
            torch.ones(3) + 1
        assert signatures.seen == warm
        with signatures:
            torch.ones(4) + 1
        assert signatures.seen != warm

    def test_a_number_that_changes(self) -> None:
        signatures = Signatures()
        x = torch.ones(3)
        with signatures:
            x * 2
        warm = set(signatures.seen)
        with signatures:
            x * 3
        assert signatures.seen != warm

    @pytest.mark.parametrize(
        "wait",
        [
            lambda x: x.nonzero(),
            lambda x: x[x > 0],
            lambda x: bool(x.any()),
            lambda x: x.sum().item(),
            lambda x: x.masked_select(x > 0),
            lambda x: x.unique(),
        ],
    )
    def test_what_the_host_would_wait_for(self, wait: Callable[[torch.Tensor], object]) -> None:
        signatures = Signatures()
        with signatures:
            wait(torch.ones(3))
        assert signatures.waits.total() > 0
