"""The worker's healthcheck: well when a worker of this host serves the model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

from redis import Redis

from sagrada.embedded import free_port
from wire.registry import Registry, WorkerInfo

HOST = socket.gethostname()


def health(redis_url: str, **env: str) -> tuple[int, str]:
    """Its exit code, and what it said."""
    settings = {"REDIS_URL": redis_url, "MODEL_ID": "m", **env}
    command = [sys.executable, "-m", "worker.health"]
    ran = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=30)
    assert not ran.stderr, ran.stderr
    return ran.returncode, ran.stdout.strip()


def info(boot: str, **given: Any) -> WorkerInfo:
    told = {"name": f"sagrada-{boot}@{HOST}", "model": "m", "queue": "q", "state": "serving", **given}
    return WorkerInfo(boot=boot, **told)


def test_only_a_serving_worker_of_this_host_and_model_counts(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        registry = Registry(redis)
        assert health(redis_url) == (1, f"no worker on {HOST} serves 'm'")
        registry.publish(info("elsewhere", name="sagrada-1@another"), 60)
        registry.publish(info("other", model="n"), 60)
        assert health(redis_url)[0] == 1
        registry.publish(info("a", state="loading", stage="weights", progress=0.25), 60)
        assert health(redis_url) == (1, f"sagrada-a@{HOST}: loading weights 25%")
        registry.publish(info("b"), 60)
        code, said = health(redis_url)
        assert code == 0 and f"sagrada-b@{HOST}: serving" in said
        registry.publish(info("b", state="draining"), 60)
        registry.publish(info("a", state="failed", error="no such weights"), 60)
        code, said = health(redis_url)
        assert code == 1 and said.endswith(": draining") and "failed no such weights" in said
        registry.publish(info("c", model="served"), 60)
        assert health(redis_url, SERVED_MODEL_NAME="served")[0] == 0


def test_what_cannot_be_asked_is_ill() -> None:
    code, said = health(f"redis://user:secret@127.0.0.1:{free_port()}/0")
    assert code == 1 and "refused" in said and "secret" not in said
    code, said = health("http://nowhere")
    assert code == 1 and "REDIS_URL is not usable" in said
