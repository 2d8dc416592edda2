"""What a job costs in the queue: sagrada:// beside kombu's own redis://, on one Redis.

    python -m bench.queue --rounds 20 --jobs 200

  messages   put, pop and ack through kombu alone, in this process (for sagrada:// with its boot's thread)
  jobs       from sending to all results stored, through a Celery worker each with the same pool, whose jobs do nothing

Each round runs both transports, one after the other in random order; ratios are taken within a round, then their
median and quartiles. Seconds of CPU of the client (in `jobs`: of the worker) and of Redis, and wall time, per job.
The bias: both workers live all the time, and an idle sagrada:// worker looks into its queue ten times a second, a
stock one once; that is in Redis's time of either's rounds. Client, workers and Redis share the machine. The stock
transport prefetches 64 messages one by one; ours takes up to 64 at once, and stores the unacked record in the same
script, which stock does in a second round trip and not atomically.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from celery import Celery
from kombu import pools
from kombu.connection import Connection
from kombu.messaging import Consumer, Queue
from redis import Redis

from bench.hardware import hardware, spread
from sagrada.embedded import EmbeddedServer, find_server
from tests.integration.queue.fleet import Worker
from wire.transport import broker_url, set_owner
from worker.boot import Boot

ROOM = 64
OURS, STOCK = "sagrada.bench", "stock-bench"
PAYLOAD = {"inputs": "x" * 2000}


class Cost(NamedTuple):
    """Seconds per job."""

    client: float
    redis: float
    wall: float


def redis_cpu(redis: Redis) -> float:
    usage = redis.info("cpu")
    return float(usage["used_cpu_user"]) + float(usage["used_cpu_sys"])


def process_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(redis: Redis, jobs: int, client: Callable[[], float], run: Callable[[], None]) -> Cost:
    before = client(), redis_cpu(redis), time.perf_counter()
    run()
    after = client(), redis_cpu(redis), time.perf_counter()
    return Cost(*((b - a) / jobs for a, b in zip(before, after, strict=True)))


class Messages:
    """put, pop, ack through kombu in this process."""

    def __init__(self, url: str, jobs: int, stack: ExitStack) -> None:
        self.jobs, self.redis = jobs, stack.enter_context(Redis.from_url(url))
        self.boot = Boot(url, 60)
        self.boot.room = lambda: ROOM - self.boot.held
        set_owner(self.boot)
        self.boot.start()
        stack.callback(self.boot.leave)
        self.links = {
            OURS: stack.enter_context(Connection(broker_url(url))),
            STOCK: stack.enter_context(Connection(url)),
        }

    def run(self, queue: str) -> Cost:
        return measure(self.redis, self.jobs, time.process_time, lambda: self._run(self.links[queue], queue))

    def _run(self, link: Connection, queue: str) -> None:
        producer, got = link.Producer(), 0
        for _ in range(self.jobs):
            producer.publish(PAYLOAD, routing_key=queue, exchange="")

        def take(body: object, message: Any) -> None:
            nonlocal got
            got += 1
            message.ack()

        with Consumer(link, [Queue(queue)], callbacks=[take], accept=["json"], prefetch_count=ROOM):
            while got < self.jobs:
                link.drain_events(timeout=30)
        while self.boot.held or self.boot.untold:
            time.sleep(0.001)


class Jobs:
    """From send_task to all results, through a worker with a pool whose jobs do nothing."""

    def __init__(self, url: str, jobs: int, stack: ExitStack, folder: Path) -> None:
        self.jobs, self.redis = jobs, stack.enter_context(Redis.from_url(url))
        settings = {"slots": str(ROOM), "lease": "60", "count": "0"}
        self.workers = {
            OURS: Worker(url, folder / "ours.log", [OURS], default=OURS, **settings),
            STOCK: Worker(url, folder / "stock.log", [STOCK], default=STOCK, stock="1", **settings),
        }
        for worker in self.workers.values():
            stack.callback(worker.stop)
            worker.ready()
        # No result backend here: a sender that has one subscribes to each result.
        self.apps = {OURS: Celery("b", broker=broker_url(url)), STOCK: Celery("s", broker=url)}

    def run(self, queue: str) -> Cost:
        pid = self.workers[queue].process.pid
        return measure(self.redis, self.jobs, lambda: process_cpu(pid), lambda: self._run(queue))

    def _run(self, queue: str) -> None:
        sent = [self.apps[queue].send_task("job", queue=queue, kwargs={}) for _ in range(self.jobs)]
        keys = ["celery-task-meta-" + result.id for result in sent]
        while self.redis.exists(*keys) < self.jobs:
            time.sleep(0.005)
        self.redis.delete(*keys)


def compare(name: str, run: Callable[[str], Cost], rounds: int) -> None:
    run(OURS), run(STOCK)  # warm
    costs: dict[str, list[Cost]] = {OURS: [], STOCK: []}
    for _ in range(rounds):
        for queue in random.sample([OURS, STOCK], 2):
            costs[queue].append(run(queue))
    print(f"\n{name}: {rounds} rounds, microseconds per job (median)")
    print(f"{'':8} {'sagrada':>9} {'stock':>9}   ratio, median [quartiles]")
    for field in Cost._fields:
        ours, stock = ([getattr(cost, field) for cost in costs[queue]] for queue in (OURS, STOCK))
        ratios = [a / b for a, b in zip(ours, stock, strict=True) if b]
        medians = f"{statistics.median(ours) * 1e6:9.0f} {statistics.median(stock) * 1e6:9.0f}"
        print(f"{field:8} {medians}   {spread(ratios)}")


def describe(rounds: int, jobs: int) -> None:
    print(f"{hardware('celery', 'kombu', 'redis', 'hiredis')}, {find_server().name}")
    print(f"{rounds} rounds of {jobs} jobs, room for {ROOM}, 2 kB of payload in `messages`, no AOF")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="pairs of runs (20)")
    parser.add_argument("--jobs", type=int, default=200, help="jobs per run (200)")
    given = parser.parse_args()
    describe(given.rounds, given.jobs)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = EmbeddedServer(Path(folder) / "redis", aof=False)
        server.start()
        stack.callback(server.stop)
        stack.callback(pools.reset)
        compare("messages", Messages(server.url, given.jobs, stack).run, given.rounds)
        compare("jobs", Jobs(server.url, given.jobs, stack, Path(folder)).run, given.rounds)


if __name__ == "__main__":
    main()
