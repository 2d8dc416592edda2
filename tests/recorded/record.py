"""What a fleet leaves in Redis, as a file: run it in a checkout of the version to be recorded, before that changes.

    PYTHONPATH=CHECKOUT python tests/recorded/record.py 1 tests/recorded/v1.json

One worker completes a job, is killed in the middle of another, and a third is still queued. What is recorded is every
key of theirs: records, logs, messages, and the boot that died. Deadlines are decades away, so that they never pass.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from celery import Celery

from sagrada.embedded import EmbeddedServer
from wire.dispatch import dispatch
from wire.job import Job, SamplingParams
from wire.ledger import Ledger
from wire.redis_url import client
from wire.transport import broker_url

MODEL, QUEUE = "scripted", "sagrada.scripted"
TTL = 50 * 365 * 86400.0
PROMPT, TOKENS = "recorded", 24
ASKED: dict[int, dict[str, Any]] = {
    1: {"stop": ("never said",)},
    2: {"top_n": 2, "logit_bias": ((65, -1.0),)},
}
"""Version → what its jobs ask for: of a version, what no older reader would understand."""
SKIPPED = ("sagrada:worker", "sagrada:blob:", "_kombu", "unacked_mutex")


def params(version: int) -> SamplingParams:
    """Of every job."""
    return SamplingParams(max_new_tokens=TOKENS, seed=7, ignore_eos=True, **ASKED[version])


def read(redis: Any, key: bytes) -> dict[str, Any]:
    """One key, as JSON holds it."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    kind = redis.type(key).decode()
    if kind == "hash":
        value: Any = {text(k): text(v) for k, v in redis.hgetall(key).items()}
    elif kind == "zset":
        value = {text(k): score for k, score in redis.zrange(key, 0, -1, withscores=True)}
    elif kind == "stream":
        value = [[i.decode(), {text(k): text(v) for k, v in f.items()}] for i, f in redis.xrange(key)]
    elif kind == "string":
        value = text(redis.get(key))
    else:
        value = [text(item) for item in redis.lrange(key, 0, -1)]
    return {"type": kind, "value": value}


def main(version: int, path: Path) -> None:
    """Play it, and write the file."""
    folder = Path(tempfile.mkdtemp())
    server = EmbeddedServer(folder / "redis", aof=False)
    server.start()
    redis: Any = client(server.url)
    ledger, sender = Ledger(redis), Celery(broker=broker_url(server.url))
    env = {**os.environ, "REDIS_URL": server.url, "SERVED_MODEL_NAME": MODEL, "LEASE_SECONDS": "2"}
    env["MODEL_ID"] = "scripted?step=0.2"
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker"], env=env, stdout=log, stderr=log, start_new_session=True
        )

    def submit(name: str) -> str:
        job = Job(
            id=f"{name}-v{version}", model=MODEL, params=params(version), ids=tuple(PROMPT.encode()), ttl=TTL
        )
        ledger.submit(job, QUEUE)
        dispatch(sender, job, QUEUE)
        return job.id

    def wait(job: str, tokens: int) -> None:
        while sum(e.seq >= 0 for e in ledger.read(job)) < tokens:
            time.sleep(0.02)

    done = submit("completed")
    wait(done, TOKENS + 1)
    wait(submit("running"), 5)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    submit("queued")
    keys = {k.decode(): read(redis, k) for k in sorted(redis.keys("*")) if not k.decode().startswith(SKIPPED)}
    path.write_text(json.dumps({"version": version, "keys": keys}, indent=1) + "\n")
    sender.close()
    server.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
