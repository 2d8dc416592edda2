"""How long a job stands still when its worker, or its worker's engine, is killed.

    python -m bench.recovery --kills 6 --jobs 30

Redis and two workers with a runner that only sleeps, a lease of two seconds. In each round the jobs run on both
workers; then one worker's parent, or its engine child, is killed with SIGKILL, and for each job that ran there the
time is taken from the kill to its next token on Redis's channel; beside it, to the moment at which another attempt
began. The killed worker is replaced and the jobs are cancelled before the next round. The two ways take turns.

A killed parent is noticed when its lease ends, a killed engine at once. A model's own prefill of what the jobs have so
far is not in the figures: the runner sleeps one step for it. The bias: two workers, of which one is killed, and room
for all jobs on the other.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError as Disconnected

from bench.fleet import MODEL, PROMPT, QUEUE, ROOT, params, until
from bench.hardware import hardware
from sagrada.embedded import EmbeddedServer
from wire.codec import decode_event
from wire.events import Event, Resumed, Token
from wire.job import Job, new_job_id
from wire.keys import TASK_NAME, boot_channel, channel
from wire.ledger import Ledger
from wire.registry import Registry, WorkerInfo
from wire.transport import broker_url

LONG = 4_000
"""Tokens of a job that is to outlive its round."""
WAYS = ("worker", "engine")


class Ear:
    """Hears every job's channel: when its last token came, and since a moment, its first token and attempt."""

    def __init__(self, url: str) -> None:
        self.tokens: dict[str, int] = {}
        self._since: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()
        self._pubsub: Any = Redis.from_url(url).pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe(channel("*"))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def listen(self, jobs: Sequence[str]) -> dict[str, dict[str, float]]:
        """From now on, by job: when the first event of each type came, time.monotonic."""
        with self._lock:
            self._since = {job: {} for job in jobs}
            return self._since

    def _run(self) -> None:
        with suppress(Disconnected, ValueError):
            for message in self._pubsub.listen():
                now, event = time.monotonic(), decode_event(message["data"])
                job = message["channel"].decode().partition("{")[2].partition("}")[0]
                with self._lock:
                    self.tokens[job] = self.tokens.get(job, 0) + isinstance(event, Token)
                    self._note(job, event, now)

    def _note(self, job: str, event: Event, now: float) -> None:
        """A token that came before the next attempt is one of the last that the killed one had sent."""
        if (seen := self._since.get(job)) is None:
            return
        if isinstance(event, Resumed):
            seen.setdefault("attempt", now)
        elif isinstance(event, Token) and "attempt" in seen:
            seen.setdefault("token", now)


@dataclass
class Figures:
    """One way's, in seconds since the kill."""

    attempt: list[float] = field(default_factory=list)
    token: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    """The machine's, at each kill."""


class Pair:
    """Two workers over a Redis of their own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._options = options
        self.server = EmbeddedServer(folder, aof=True)
        self.server.start()
        self.redis = Redis.from_url(self.server.url)
        self.registry, self.ledger = Registry(self.redis), Ledger(self.redis)
        self.app = Celery(broker=broker_url(self.server.url), set_as_current=False)
        self.ear = Ear(self.server.url)
        self.workers: list[subprocess.Popen[bytes]] = []
        """The eldest first."""
        self.engines_killed: Counter[int] = Counter()
        for _ in range(2):
            self._add()

    def _add(self) -> None:
        settings = {
            "REDIS_URL": self.server.url, "MODEL_ID": f"scripted?step={self._options.step}",
            "SERVED_MODEL_NAME": MODEL, "LEASE_SECONDS": str(self._options.lease),
            "SLOTS": str(self._options.jobs),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "--log-level", "CRITICAL"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.workers.append(process)
        until(lambda: self._whole(process))

    def _info(self, worker: subprocess.Popen[bytes]) -> WorkerInfo | None:
        """Its registry entry; its boot is another one after a lost lease."""
        name = f"sagrada-{worker.pid}@"
        return next((info for info in self.registry.list() if info.name.startswith(name)), None)

    def _whole(self, worker: subprocess.Popen[bytes]) -> bool:
        """Whether it serves, with the last engine that it was left with, and idles."""
        info = self._info(worker)
        if info is None or info.state != "serving" or info.running:
            return False
        return info.counters.get("engine_restarts", 0) >= self.engines_killed[worker.pid]

    def round(self, way: str, figures: Figures) -> None:
        """Jobs on both, one killed, its jobs timed, everything as before."""
        jobs = [self._submit() for _ in range(self._options.jobs)]
        until(lambda: all(self.ear.tokens.get(job, 0) >= 8 for job in jobs))
        victim = self.workers[-1]  # so that the other is not new: it may declare somebody dead
        info = self._info(victim)
        boot = info.boot if info else ""
        hit = [job for job in jobs if (record := self.ledger.record(job)) and record.boot == boot]
        figures.load.append(os.getloadavg()[0])
        pid = victim.pid if way == "worker" else engine_of(victim.pid)
        heard = self.ear.listen(hit)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: all("token" in events for events in heard.values()))
        figures.token += [events["token"] - killed for events in heard.values()]
        figures.attempt += [events["attempt"] - killed for events in heard.values()]
        self._tidy(jobs, way, victim)

    def _submit(self) -> str:
        job = Job(id=new_job_id(), model=MODEL, params=params(LONG), ids=PROMPT)
        self.ledger.submit(job, QUEUE)
        self.app.send_task(TASK_NAME, task_id=job.id, queue=QUEUE)
        return job.id

    def _tidy(self, jobs: Sequence[str], way: str, victim: subprocess.Popen[bytes]) -> None:
        for job in jobs:
            if owner := self.ledger.cancel(job).boot:
                self.redis.publish(boot_channel(owner), job)
        if way == "worker":
            self.workers.remove(victim)
            victim.wait()
            self._add()
        else:
            self.engines_killed[victim.pid] += 1
        until(lambda: all(map(self._whole, self.workers)))

    def close(self) -> None:
        """End what was started."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(60)
        self.server.stop()


def engine_of(pid: int) -> int:
    """The worker's child."""
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        if found := listing.read_text().split():
            return int(found[0])
    sys.exit(f"the worker {pid} has no engine")


def row(way: str, what: str, values: Sequence[float]) -> str:
    """A line of the table, in ms."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    ms = " | ".join(f"{1000 * value:.0f}" for value in (cuts[49], cuts[89], cuts[98], max(values)))
    return f"| {way} | {what} | {len(values)} | {ms} |"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=6, help="of each kind")
    parser.add_argument("--jobs", type=int, default=30, help="that run on both workers together")
    parser.add_argument("--lease", type=float, default=2.0, help="seconds")
    parser.add_argument("--step", type=float, default=0.02, help="seconds that a step takes")
    options = parser.parse_args()
    print(hardware("celery", "kombu", "redis"))
    print(vars(options), flush=True)
    figures = {way: Figures() for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder), options)
        try:
            time.sleep(2 * options.lease)  # for so long a new worker declares nobody dead
            for _ in range(options.kills):
                for way in WAYS:
                    pair.round(way, figures[way])
        finally:
            pair.close()
    print("\n| killed | until | jobs | median, ms | p90 | p99 | longest |\n|---|---|---|---|---|---|---|")
    for way, found in figures.items():
        print(row(way, "another attempt", found.attempt))
        print(row(way, "the next token", found.token))
    loads = [load for found in figures.values() for load in found.load]
    print(f"\nload average at the kills: {min(loads):.1f} to {max(loads):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
