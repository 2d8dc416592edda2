"""What a job costs in Redis, as a formula: docs/reliability.md says it, and it is held here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from wire.commands import append_command, entry
from wire.dispatch import dispatch
from wire.events import Done, Token
from wire.job import Job, Result, SamplingParams, Usage, new_job_id, new_seed
from wire.ledger import Ledger
from wire.queue import POP, Boots, Delivery, Popped, Record, TaskQueue, pop_args
from wire.transport import broker_url

QUEUE, BOOT = "sagrada.llama-3-8b", "0123456789abcdef"
WITHIN = 0.2

QUEUED, RUNNING, FINISHED = 2450, 6300, 5400
"""Bytes of a job without any tokens: record, message, index; log; what is left of them until it expires."""
PROMPT, OUTPUT = 3, 86
"""Bytes per token: an id up to 65,535 in the record (5 above), an entry of the log without its text."""


def formula(state: str, prompt: int, output: int, text: int) -> float:
    """Bytes of one job; `text`: bytes of all its text, which is in the log and, in the end, in the record too."""
    if state == "queued":
        return QUEUED + PROMPT * prompt
    if state == "running":
        return RUNNING + PROMPT * prompt + OUTPUT * output + text
    return FINISHED + PROMPT * prompt + OUTPUT * output + 2 * text


class Jobs:
    """So many alike, brought from one state to the next as gateway and worker do it."""

    def __init__(self, url: str, count: int, prompt: int, output: int, word: str) -> None:
        self.redis: Any = Redis.from_url(url)
        self.ledger, self.boots = Ledger(self.redis), Boots(self.redis)
        self.count, self.prompt, self.output, self.word = count, prompt, output, word
        self.dice, self.jobs = random.Random(1), list[Job]()
        self.app = Celery(broker=broker_url(url), set_as_current=False)
        dispatch(self.app, self._job(), QUEUE)  # what there is once for all jobs is there now
        TaskQueue(self.redis, QUEUE).purge()
        self.boots.register(BOOT, 3600)

    def _job(self) -> Job:
        ids = tuple(self.dice.randrange(256, 65536) for _ in range(self.prompt))
        params = SamplingParams(max_new_tokens=self.output, seed=new_seed())
        return Job(id=new_job_id(), model="llama-3-8b", params=params, ids=ids)

    def queued(self) -> None:
        for _ in range(self.count):
            self.jobs.append(job := self._job())
            self.ledger.submit(job, QUEUE, "d" * 64)
            dispatch(self.app, job, QUEUE)

    def running(self) -> None:
        self.taken = Popped(*POP(self.redis, *pop_args(BOOT, self.count, False, [QUEUE]))).taken
        for job in self.jobs:
            self.ledger.claim(job.id, BOOT)
            pipe = self.redis.pipeline(transaction=False)
            for n in range(self.output):
                id, logprob = self.dice.randrange(256, 65536), -self.dice.random()
                token = Token(seq=n, index=n, id=id, text=self.word, logprob=logprob, special=False)
                pipe.execute_command(*append_command(job.id, 1, entry(token)))
            pipe.execute()

    def finished(self) -> None:
        usage = Usage.of(self.prompt, self.output)
        for job in self.jobs:
            seed = job.params.seed
            end = Done(seq=self.output, finish_reason="length", seed=seed, usage=usage)
            result = Result(text=self.word * self.output, finish_reason="length", seed=seed, usage=usage)
            self.ledger.finish(job.id, 1, end, result)
        records = map(Record.parse, self.taken)
        self.boots.ack([Delivery(BOOT, record.queue, record.task, record.tag) for record in records])

    def keys(self) -> int:
        """Bytes of all keys."""
        return sum(self.redis.memory_usage(key, samples=0) for key in self.redis.scan_iter(count=1000))

    def heap(self) -> int:
        """Bytes that the server has allocated, its clients' buffers aside."""
        memory = self.redis.info("memory")
        return int(memory["used_memory"] - memory["mem_clients_normal"])

    def close(self) -> None:
        self.app.close()
        self.redis.close()


@pytest.fixture
def measured(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Jobs]:
    jobs = Jobs(redis_url, *request.param)
    yield jobs
    jobs.close()


SIZES = [
    (20, 1, 1, " word"),
    (20, 10, 100, " word"),
    (20, 1000, 300, " word"),
    (10, 8000, 20, " a"),
    (10, 100, 200, " " * 20),
]


@pytest.mark.parametrize("measured", SIZES, indirect=True)
def test_a_job_costs_what_the_formula_says(measured: Jobs) -> None:
    before = measured.keys()
    for state in ("queued", "running", "finished"):
        getattr(measured, state)()
        cost = (measured.keys() - before) / measured.count
        text = measured.output * len(measured.word)
        assert cost == pytest.approx(formula(state, measured.prompt, measured.output, text), rel=WITHIN), (
            state
        )


@pytest.mark.full
@pytest.mark.parametrize("measured", [(400, 10, 1, " word"), (400, 500, 200, " word")], indirect=True)
def test_the_keys_are_all_that_it_costs(measured: Jobs) -> None:
    measured.queued()
    measured.running()
    measured.finished()
    keys, heap = measured.keys(), measured.heap()
    measured.redis.delete(*measured.redis.keys("sagrada:{*"))
    assert heap - measured.heap() == pytest.approx(keys - measured.keys(), rel=WITHIN)


def test_the_documentation_says_the_same() -> None:
    text = (Path(__file__).parents[3] / "docs/reliability.md").read_text()
    for row in (
        f"| queued | {QUEUED:,} + {PROMPT} · P |",
        f"| running | {RUNNING:,} + {PROMPT} · P + {OUTPUT} · T + B |",
        f"| finished | {FINISHED:,} + {PROMPT} · P + {OUTPUT} · T + 2 · B |",
    ):
        assert row in text
