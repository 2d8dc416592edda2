"""`python -m worker.health`: a container's healthcheck, with the settings of the worker's environment.

Healthy is a host on which a worker serves the model: it has loaded, is warm, holds its lease and reaches Redis, for
that is where it says so. Of several, one for each card, one is enough: the others are the supervisor's affair.
Not a command of `python -m worker`, which would import Celery each time: this runs every few seconds.
"""

from __future__ import annotations

import socket
import sys

from redis import RedisError

from wire.redis_url import client
from wire.registry import Registry, WorkerInfo
from worker.config import Config, ConfigError, load

PATIENCE = 4.0
"""Seconds that Redis gets to answer."""


def here(config: Config, host: str) -> list[WorkerInfo]:
    """The workers of this host that the registry has for the model; raises what redis-py raises."""
    with client(config.redis_url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE) as redis:
        known = Registry(redis).list()
    return [w for w in known if w.name.endswith(f"@{host}") and w.model == config.name]


def describe(worker: WorkerInfo) -> str:
    """A worker in one line."""
    how = f" {worker.stage} {worker.progress:.0%}" if worker.state == "loading" else ""
    return f"{worker.name}: {worker.state}{how}{' ' + worker.error if worker.error else ''}"


def main() -> int:
    """0: healthy; 1: not, and the standard output has the reason."""
    host = socket.gethostname()
    try:
        config = load()
        workers = here(config, host)
    except (ConfigError, RedisError) as error:
        print(f"worker: {error}")
        return 1
    print("\n".join(map(describe, workers)) or f"no worker on {host} serves {config.name!r}")
    return 0 if any(w.state == "serving" for w in workers) else 1


if __name__ == "__main__":
    sys.exit(main())
