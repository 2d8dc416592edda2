"""What the storm does to a fleet: one fault after another, by a seed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress

from redis.exceptions import RedisError

from sagrada.embedded import EmbeddedServer
from tests.support.fleet import Fleet
from tests.support.processes import alive, children
from tests.support.proxy import Proxy

LEASE = 2.0
WEIGHTS = {
    "engine killed": 6, "worker killed": 5, "gateway killed": 4, "worker frozen": 3, "engine frozen": 1,
    "Redis killed": 2, "Redis stalled": 3, "connections reset": 5,
}  # fmt: skip


class Faults:
    """Everything that they break is whole again when `rage` returns."""

    def __init__(self, fleet: Fleet, server: EmbeddedServer, proxy: Proxy, seed: int) -> None:
        self._fleet, self._server, self._proxy = fleet, server, proxy
        self._dice = random.Random(f"faults {seed}")
        self.counts: Counter[str] = Counter()

    def rage(self, seconds: float) -> None:
        """One after another for so long. From a thread that outlives the fleet: a Redis dies with its starter."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            (fault,) = self._dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
            getattr(self, "_" + fault.lower().replace(" ", "_"))()
            self.counts[fault] += 1
            time.sleep(self._dice.uniform(0.5, 3.0))
            self._supervise()

    def _supervise(self) -> None:
        """Start again what has ended by itself, as Compose would: a worker gives up whose engine never gets ready."""
        for worker in [worker for worker in self._fleet.workers if worker.poll() is not None]:
            self._fleet.workers.remove(worker)
            self._fleet.start_worker()
            self.counts["worker gave up"] += 1

    def _engine_killed(self) -> None:
        for engine in children(self._dice.choice(self._fleet.workers).pid):
            with suppress(ProcessLookupError):
                os.kill(engine, signal.SIGKILL)

    def _worker_killed(self) -> None:
        worker = self._dice.choice(self._fleet.workers)
        worker.kill()
        worker.wait()
        self._fleet.workers.remove(worker)
        self._fleet.start_worker()

    def _gateway_killed(self) -> None:
        number = self._dice.choice(list(self._fleet.gateways))
        self._fleet.gateways[number].kill()
        self._fleet.gateways[number].wait()
        self._fleet.start_gateway(number)

    def _worker_frozen(self) -> None:
        """For longer than a lease: it wakes as a zombie that believes it owns its jobs."""
        self._freeze(self._dice.choice(self._fleet.workers).pid)

    def _engine_frozen(self) -> None:
        for engine in children(self._dice.choice(self._fleet.workers).pid):
            self._freeze(engine)

    def _freeze(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self._dice.uniform(0.5, 2.0) * LEASE)
            if alive(pid):
                os.kill(pid, signal.SIGCONT)

    def _redis_killed(self) -> None:
        self._server.kill()
        time.sleep(self._dice.uniform(0, LEASE))
        self._server.start()

    def _redis_stalled(self) -> None:
        self._proxy.stall()
        time.sleep(self._dice.uniform(0.2, 1.5 * LEASE))
        self._proxy.go_on()

    def _connections_reset(self) -> None:
        for _ in range(self._dice.randint(1, 5)):
            self._proxy.reset()
            with suppress(RedisError):
                self._fleet.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            time.sleep(0.1)
