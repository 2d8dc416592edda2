"""What the queue costs: a whole worker beside the bare engine loop, with a runner that only sleeps.

    python -m bench.fleet --rounds 20 --step 0.02 --slots 32

Each round runs the same jobs through the engine alone and through Redis, Celery and the publisher, one after the
other, so that what else the machine does falls on both. The producer, the reader, Redis, worker and engine share the
machine: with few cores the fleet's figures are too low. A model's own work is not in any of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from bench.hardware import hardware, spread
from models.step import LoadSpec
from sagrada.embedded import EmbeddedServer
from wire.codec import decode_event
from wire.events import Token
from wire.job import Job, SamplingParams, new_job_id
from wire.keys import TASK_NAME, channel, queue_of
from wire.ledger import Ledger
from wire.registry import Registry, WorkerInfo
from wire.transport import broker_url
from worker.launcher import EngineProcess
from worker.link import Admit, Ready, Stepped

ROOT = Path(__file__).parents[1]
MODEL = "bench"
QUEUE = queue_of(MODEL)
PROMPT = tuple(b"Once upon a time there was a queue")


def until(what: Callable[[], object], within: float = 300.0) -> None:
    """Poll until it is true."""
    end = time.monotonic() + within
    while not what():
        if time.monotonic() > end:
            sys.exit("the benchmark got stuck")
        time.sleep(0.005)


def params(tokens: int) -> SamplingParams:
    """Greedy, and never ending early."""
    return SamplingParams(max_new_tokens=tokens, seed=1, ignore_eos=True)


class Bare:
    """The engine and its link, nothing else."""

    def __init__(self, model_id: str, slots: int) -> None:
        self.slots = slots
        self.engine = EngineProcess.start(LoadSpec(model_id=model_id, slots=slots))
        self.next = 0
        until(self._ready)

    def _ready(self) -> bool:
        return any(isinstance(frame, Ready) for frame in self.engine.link.receive())

    def _admit(self, tokens: int) -> None:
        self.next += 1
        self.engine.link.send(Admit(seq=self.next, prompt=list(PROMPT), output=[], params=params(tokens)))

    def run(self, jobs: int, tokens: int) -> tuple[float, float]:
        """(seconds, busy share of the slots) for so many jobs, always one admitted for each that leaves."""
        begun, waiting, left, steps, done = time.monotonic(), jobs, 0, 0, 0
        for _ in range(min(jobs, self.slots + 4)):
            self._admit(tokens)
            waiting -= 1
        while left < jobs:
            self.engine.link.wait(1.0)
            for frame in self.engine.link.receive():
                if isinstance(frame, Stepped):
                    left, steps, done = left + len(frame.left), steps + 1, done + len(frame.outputs)
                    for _ in range(min(waiting, len(frame.left))):
                        self._admit(tokens)
                        waiting -= 1
        return time.monotonic() - begun, done / (steps * self.slots)


class Fleet:
    """One worker process over a Redis of its own."""

    def __init__(self, model_id: str, slots: int, folder: Path) -> None:
        self.slots = slots
        self.server = EmbeddedServer(folder, aof=True)
        self.server.start()
        self.redis = redis.Redis.from_url(self.server.url)
        self.registry, self.ledger = Registry(self.redis), Ledger(self.redis)
        self.app = Celery(broker=broker_url(self.server.url), set_as_current=False)
        settings = {
            "REDIS_URL": self.server.url, "MODEL_ID": model_id, "SERVED_MODEL_NAME": MODEL, "SLOTS": str(slots),
            "LEASE_SECONDS": "2",
        }  # fmt: skip
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "worker", "--log-level", "WARNING"],
            cwd=ROOT,
            env={**os.environ, **settings},
        )
        until(lambda: self.info() is not None)

    def info(self) -> WorkerInfo | None:
        """The worker's entry, once it serves."""
        return next((info for info in self.registry.list() if info.state == "serving"), None)

    def submit(self, tokens: int) -> str:
        """Record first, queue second, as the gateway does."""
        job = Job(id=new_job_id(), model=MODEL, params=params(tokens), ids=PROMPT)
        self.ledger.submit(job, QUEUE)
        self.app.send_task(TASK_NAME, task_id=job.id, queue=QUEUE)
        return job.id

    def run(self, jobs: int, tokens: int) -> tuple[float, float, float]:
        """(seconds from first start to last end, busy share, parent's CPU seconds); the backlog is there before."""
        ids = self._backlog(jobs, tokens)
        until(lambda: self.redis.exists(*[f"celery-task-meta-{id}" for id in ids]) == jobs)
        records = [record for id in ids if (record := self.ledger.record(id))]
        seconds = (max(r.finished for r in records) - min(r.started for r in records)) / 1000
        cpu = self.cpu() - self._cpu_before
        return seconds, jobs * tokens / (self._steps() * self.slots), cpu

    def _backlog(self, jobs: int, tokens: int) -> list[str]:
        # A worker that consumes while the backlog is made would run half empty at first.
        self.app.control.cancel_consumer(QUEUE)
        time.sleep(0.3)
        self._cpu_before, self._steps_before = self.cpu(), self._count("steps")
        ids = [self.submit(tokens) for _ in range(jobs)]
        self.app.control.add_consumer(QUEUE)
        return ids

    def _count(self, name: str) -> float:
        info = self.info()
        return info.counters.get(name, 0) if info else 0

    def _steps(self) -> float:
        time.sleep(1.2)  # the registry is written every half lease
        return max(1.0, self._count("steps") - self._steps_before)

    def first_token(self) -> float:
        """Seconds from submission to the first token on the channel, with an idle worker."""
        job = Job(id=new_job_id(), model=MODEL, params=params(2), ids=PROMPT)
        pubsub: Any = self.redis.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(channel(job.id))
        pubsub.get_message(timeout=1)
        begun = time.monotonic()
        self.ledger.submit(job, QUEUE)
        self.app.send_task(TASK_NAME, task_id=job.id, queue=QUEUE)
        while True:
            message = pubsub.get_message(timeout=30)
            if message and isinstance(decode_event(message["data"]), Token):
                seconds = time.monotonic() - begun
                pubsub.close()
                until(lambda: self.redis.exists(f"celery-task-meta-{job.id}"))
                return seconds

    def cpu(self) -> float:
        """CPU seconds of the worker's parent process so far."""
        tasks = Path(f"/proc/{self.worker.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def close(self) -> None:
        """Drain and end."""
        self.worker.terminate()
        self.worker.wait(60)
        self.server.stop()


def figure(values: Sequence[float], unit: str = "", scale: float = 1.0) -> str:
    """Median and quartiles in that unit, and of how many."""
    return f"{spread([value * scale for value in values], 3)}{unit}, n={len(values)}"


def describe(options: argparse.Namespace) -> None:
    """The machine, the versions, the settings."""
    print(hardware("celery", "kombu", "redis", "hiredis", "msgspec"))
    print("settings: " + ", ".join(f"{name}={value}" for name, value in vars(options).items()))


def measure(options: argparse.Namespace, bare: Bare, fleet: Fleet) -> None:
    """Interleaved rounds, and what they say."""
    jobs, tokens = options.jobs, options.tokens
    ratios, busy, bare_busy, per_token, per_job, first = ([] for _ in range(6))
    fleet.run(options.slots, 8)  # warm: connections, scripts, imports
    for _ in range(options.rounds):
        alone, alone_busy = bare.run(jobs, tokens)
        seconds, share, cpu = fleet.run(jobs, tokens)
        _, _, short_cpu = fleet.run(jobs, options.short)
        # Two kinds of jobs, two unknowns.
        slope = (cpu - short_cpu) / (jobs * (tokens - options.short))
        per_token.append(slope)
        per_job.append(short_cpu / jobs - slope * options.short)
        ratios.append(alone / seconds)
        busy.append(share)
        bare_busy.append(alone_busy)
        first += [fleet.first_token() for _ in range(3)]
    print(f"throughput, fleet / bare engine:  {figure(ratios)}")
    print(f"busy slots, bare engine:          {figure(bare_busy, ' %', 100)}")
    print(f"busy slots, fleet:                {figure(busy, ' %', 100)}")
    print(f"submit to first token, idle:      {figure(first, ' ms', 1000)}")
    print(f"worker parent's CPU per token:    {figure(per_token, ' us', 1e6)}")
    print(f"worker parent's CPU per job:      {figure(per_job, ' ms', 1000)}")


def main() -> None:
    """Parse, start, measure, end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="paired rounds")
    parser.add_argument("--step", type=float, default=0.02, help="seconds that a step takes")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--jobs", type=int, default=128, help="jobs per round")
    parser.add_argument("--tokens", type=int, default=100, help="tokens per job")
    parser.add_argument(
        "--short", type=int, default=10, help="tokens per job of the rounds that tell job from token"
    )
    options = parser.parse_args()
    describe(options)
    model_id = f"scripted?step={options.step}"
    with tempfile.TemporaryDirectory() as folder:
        bare, fleet = Bare(model_id, options.slots), Fleet(model_id, options.slots, Path(folder))
        try:
            measure(options, bare, fleet)
        finally:
            bare.engine.close()
            fleet.close()


if __name__ == "__main__":
    main()
