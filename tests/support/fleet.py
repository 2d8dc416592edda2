"""A whole fleet as its users run it: worker and gateway processes over a real Redis, to be killed at will."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from sagrada.embedded import free_port
from tests.support.processes import alive, children, until
from wire.redis_url import client

START_TIMEOUT = 120.0
"""Generous: a test machine may be busy; nothing waits this long when all is well."""


class Fleet:
    """Workers and gateways. Ends every process it started, and says so when one outlives its parent."""

    def __init__(
        self,
        redis_url: str,
        logs: Path,
        *,
        model: str = "scripted",
        workers: int = 1,
        gateways: int = 1,
        lease: float = 2.0,
        env: Mapping[str, str] | None = None,
        urls: Mapping[str, str] | None = None,
    ) -> None:
        """`redis_url` is the test's own way to Redis, and every process's unless `urls` has one for its room."""
        self.redis_url, self.logs, self.count = redis_url, logs, workers
        self._urls = dict(urls or {})
        self.ports = [free_port() for _ in range(gateways)]
        self.addresses = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.url = self.addresses[0]
        self.redis = client(redis_url)
        self.env = {
            **os.environ,
            "REDIS_URL": redis_url,
            "MODEL_ID": model,
            "LEASE_SECONDS": str(lease),
            "HOST": "127.0.0.1",
            **(env or {}),
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        self.gateways: dict[int, subprocess.Popen[bytes]] = {}
        self.engines: set[int] = set()
        self._started = 0

    def _spawn(self, room: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        self._started += 1
        log = (self.logs / f"{room}-{self._started}.log").open("wb")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", room],
                env={**self.env, "REDIS_URL": self._urls.get(room, self.redis_url), **(env or {})},
                stdout=log,
                stderr=log,
            )

    def start_worker(self, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """One more worker."""
        worker = self._spawn("worker", env)
        self.workers.append(worker)
        return worker

    def start_gateway(self, number: int = 0) -> None:
        """A gateway, on the same port as the one before it."""
        self.gateways[number] = self._spawn("gateway", {"PORT": str(self.ports[number])})

    @property
    def gateway(self) -> subprocess.Popen[bytes]:
        """The first gateway."""
        return self.gateways[0]

    def engine_of(self, worker: subprocess.Popen[bytes]) -> int:
        """The pid of a worker's engine child."""
        pid = until(lambda: children(worker.pid), START_TIMEOUT, "the engine child")[0]
        self.engines.add(pid)
        return int(pid)

    def ready(self, workers: int | None = None) -> Self:
        """Wait until so many workers are serving, and every gateway knows their models."""
        want = self.count if workers is None else workers

        def serving() -> bool:
            for process in [*self.workers, *self.gateways.values()]:
                assert process.poll() is None, f"a process ended with {process.returncode}:\n{self.tail()}"
            try:
                answers = [httpx.get(url + "/readyz", timeout=5) for url in self.addresses]
            except httpx.HTTPError:
                return False
            if any(answer.status_code != 200 for answer in answers):
                return False
            from wire.registry import Registry

            models = [w.model for w in Registry(self.redis).list() if w.state == "serving"]
            return len(models) >= want and all({*models} <= {*answer.json()["models"]} for answer in answers)

        until(serving, START_TIMEOUT, f"{want} serving workers")
        self.engines.update(pid for w in self.workers for pid in children(w.pid))
        return self

    def tail(self, lines: int = 40) -> str:
        """The end of every log, for a failing test's message."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
            for log in sorted(self.logs.glob("*.log"))
        )

    def __enter__(self) -> Self:
        for _ in range(self.count):
            self.start_worker()
        for number in range(len(self.ports)):
            self.start_gateway(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = [*self.gateways.values(), *self.workers]
        for worker in self.workers:
            self.engines.update(children(worker.pid))
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        deadline = time.monotonic() + 30
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.redis.close()
        if error is None:
            until(lambda: not any(map(alive, self.engines)), 10, "the last engine child to end")
        else:
            print(self.tail())
