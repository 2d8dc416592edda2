"""Real worker processes over a real Redis, and what their users hold in their hands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis

from models.step import Sampling
from tests.support.processes import LONG, children, until
from wire.codec import decode_event
from wire.events import Event, Token
from wire.job import Job, SamplingParams, new_job_id
from wire.keys import TASK_NAME, UNACKED_PREFIX, boot_channel, channel, queue_of
from wire.ledger import Ledger
from wire.queue import TaskQueue
from wire.reader import follow
from wire.registry import Registry, WorkerInfo
from wire.transport import broker_url
from worker.script import say

ROOT = Path(__file__).parents[3]
MODEL = "scripted"
QUEUE = queue_of(MODEL)


class Worker:
    """One worker process with the scripted model."""

    def __init__(self, redis_url: str, log: Path, command: list[str] | None, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *(command or ["worker"])],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "REDIS_URL": redis_url,
                    "SERVED_MODEL_NAME": MODEL,
                    "LEASE_SECONDS": "2",
                    **env,
                },
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def engine(self) -> int:
        """The process id of its engine."""
        return int(until(lambda: children(self.process.pid))[0])

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        self.process.send_signal(sig)
        return self.process.wait(LONG)

    def kill(self) -> None:
        """End it at once, whatever its state."""
        self.process.kill()
        self.process.wait(LONG)


def scripted(prompt: str, tokens: int, seed: int = 1) -> str:
    """What the scripted model answers."""
    return bytes(say(prompt.encode(), Sampling(seed=seed), tokens)).decode(errors="replace")


def text_of(events: Sequence[Event]) -> str:
    """The whole text of a stream."""
    return "".join(event.text for event in events if isinstance(event, Token))


class Subscriber:
    """A plain Redis subscriber of one job's channel, as any user writes it."""

    def __init__(self, redis: Redis, job_id: str) -> None:
        self._pubsub: Any = redis.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(channel(job_id))
        until(lambda: self._pubsub.get_message(timeout=0.1) or self._pubsub.subscribed)

    def hear(self, count: int) -> list[Event]:
        """The next `count` events."""
        events: list[Event] = []

        def all_came() -> bool:
            if message := self._pubsub.get_message(timeout=0.1):
                events.append(decode_event(message["data"]))
            return len(events) == count

        until(all_came)
        self._pubsub.close()
        return events


class Office:
    """Where jobs are handed in and looked at; starts workers and ends them all."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.url, self.folder = redis_url, folder
        self.redis = Redis.from_url(redis_url)
        self.ledger = Ledger(self.redis)
        self.registry = Registry(self.redis)
        self.queue = TaskQueue(self.redis, QUEUE)
        self.workers: list[Worker] = []
        self.sender = Celery(broker=broker_url(redis_url), set_as_current=False)
        self.plain = Celery(broker=redis_url, backend=redis_url, set_as_current=False)

    def bare(self, command: list[str] | None = None, **env: str) -> Worker:
        """One more worker; returns at once."""
        return Worker(self.url, self.folder / f"worker-{len(self.workers)}.log", command, env)

    def start(self, command: list[str] | None = None, *, step: float = 0.005, **env: str) -> Worker:
        """One more worker; returns when it serves."""
        before = {info.boot for info in self.serving()}
        worker = self.bare(command, MODEL_ID=f"scripted?step={step}", **env)
        self.workers.append(worker)
        until(lambda: {info.boot for info in self.serving()} - before or worker.process.poll() is not None)
        assert worker.process.poll() is None, worker.said
        return worker

    def serving(self) -> list[WorkerInfo]:
        """The workers that serve."""
        return [info for info in self.registry.list() if info.state == "serving"]

    def submit(self, prompt: str, tokens: int, *, enqueue: bool = True, **params: Any) -> str:
        """A job as a gateway hands it in: record first, queue second."""
        sampling = SamplingParams(max_new_tokens=tokens, **{"seed": 1, **params})
        job = Job(id=new_job_id(), model=MODEL, params=sampling, ids=tuple(prompt.encode()))
        self.ledger.submit(job, QUEUE)
        if enqueue:
            self.send(job.id)
        return job.id

    def send(self, job_id: str) -> None:
        """The message of a job that is in the ledger."""
        self.sender.send_task(TASK_NAME, task_id=job_id, queue=QUEUE)

    def stream(self, job_id: str) -> list[Event]:
        """Its events, once it has ended."""
        return list(follow(self.redis, job_id, timeout=LONG))

    def cancel(self, job_id: str) -> None:
        """As a gateway cancels."""
        stopped = self.ledger.cancel(job_id)
        if stopped.boot:
            self.redis.publish(boot_channel(stopped.boot), job_id)

    def state(self, job_id: str) -> str:
        """The job's state."""
        record = self.ledger.record(job_id)
        return record.state if record else ""

    def tokens(self, job_id: str) -> int:
        """Tokens in its log."""
        return sum(event.seq >= 0 for event in self.ledger.read(job_id))

    def unacked(self) -> int:
        """Messages that any boot holds."""
        return sum(self.redis.hlen(key) for key in self.redis.scan_iter(UNACKED_PREFIX + "*"))

    def close(self) -> None:
        """End what was started."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        for app in (self.sender, self.plain):
            app.close()
        self.redis.close()
