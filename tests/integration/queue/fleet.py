"""Workers as real processes, plain producers, and waiting with a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from celery import Celery
from kombu import pools
from redis import Redis
from redis.exceptions import RedisError

from tests.support import processes
from tests.support.processes import LONG
from wire.keys import DEAD, LIVE, UNACKED_PREFIX
from wire.queue import TaskQueue
from wire.transport import broker_url

ROOT = Path(__file__).parents[3]
QUEUE = "sagrada.test"


def until(what: Callable[[], Any], within: float = LONG) -> Any:
    """Poll until it is true; Redis may be away meanwhile."""
    return processes.until(what, within, despite=RedisError)


class Worker:
    """One `celery worker` process of tests/integration/queue/app.py."""

    def __init__(self, url: str, log: Path, queues: Sequence[str] = (QUEUE,), **env: str) -> None:
        self.log = log
        settings = {"QUEUE_TEST_" + name.upper(): value for name, value in env.items()}
        with log.open("ab") as said:
            self.process = self._start(queues, said, {**settings, "QUEUE_TEST_REDIS": url})

    def _start(
        self, queues: Sequence[str], said: IO[bytes], settings: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.integration.queue.app", "worker", "--without-gossip",
             "--without-mingle", "-l", "INFO", "-Q", ",".join(queues), "-n", f"w{self.log.stem}@test"],
            cwd=ROOT, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **settings},
            stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ready(self) -> Worker:
        until(lambda: "ready." in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        return self

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """Warm shutdown; kills what does not obey."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(LONG)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LONG)


class Fleet:
    """Workers on one Redis, stopped at the end whatever happens."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.workers = url, folder, list[Worker]()
        self.producers: list[Celery] = []
        self.redis = Redis.from_url(url, decode_responses=True)
        self.queue = TaskQueue(self.redis, QUEUE)

    def start(self, queues: Sequence[str] = (QUEUE,), **env: str) -> Worker:
        return self.launch(queues, **env).ready()

    def launch(self, queues: Sequence[str] = (QUEUE,), **env: str) -> Worker:
        """One that is not ready yet."""
        worker = Worker(self.url, self.folder / f"{len(self.workers)}.log", queues, **env)
        self.workers.append(worker)
        return worker

    def producer(self, ours: bool = True, **conf: Any) -> Celery:
        """An app that only sends: through our transport, or a stock one that has never heard of Sagrada."""
        app = Celery("producer", broker=broker_url(self.url) if ours else self.url, backend=self.url)
        app.conf.update(task_default_queue=QUEUE, broker_connection_retry_on_startup=True, **conf)
        self.producers.append(app)
        return app

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()
        for app in self.producers:
            app.backend.remove_pending_result = lambda result: (
                result
            )  # AsyncResult.__del__ would connect again
            app.backend.result_consumer.stop()
            app.backend.client.connection_pool.disconnect()
            app.close()
        pools.reset()  # kombu keeps connections for as long as the process lives
        self.redis.close()

    def runs(self, tasks: Sequence[str]) -> list[int]:
        """How often each task was started."""
        pipe = self.redis.pipeline(transaction=False)
        for task in tasks:
            pipe.llen("runs:" + task)
        return list(pipe.execute())

    def unacked(self) -> dict[str, int]:
        """Boot -> messages it owns."""
        keys = list(self.redis.scan_iter(UNACKED_PREFIX + "*"))
        return {key.removeprefix(UNACKED_PREFIX): int(self.redis.hlen(key)) for key in keys}

    def live(self) -> list[str]:
        return list(self.redis.zrange(LIVE, 0, -1))  # type: ignore[arg-type]

    def dead(self) -> list[str]:
        return list(self.redis.zrange(DEAD, 0, -1))  # type: ignore[arg-type]

    def settled(self) -> bool:
        """Nothing waits, nothing is unacked."""
        return self.queue.size() == 0 and not self.unacked() and not self.dead()


def send(app: Celery, count: int, **kwargs: Any) -> list[Any]:
    """`count` jobs that sleep; their AsyncResults."""
    return [app.send_task("job", kwargs={**kwargs, "mark": i}) for i in range(count)]


def done(results: Sequence[Any]) -> Iterator[str]:
    """The ids of those that have succeeded, read from the backend at once."""
    backend = results[0].backend
    found = backend.client.mget([backend.get_key_for_task(result.id) for result in results])
    for result, meta in zip(results, found, strict=True):
        if meta and b'"SUCCESS"' in meta:
            yield result.id
