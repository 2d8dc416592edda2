"""`sagrada up` as a process: a real Redis, real children, with small stand-ins for the two rooms that it starts.

The stand-ins are found because `up` puts its own folder first on its children's path. The whole fleet, with the real
gateway and worker, is tested in tests/integration/fleet.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis, RedisError

from sagrada.embedded import free_port, port_is_free
from tests.support.processes import alive, until

ROOT = Path(__file__).parents[3]
TIMEOUT = 60.0

WORKER = """
import os, pathlib, signal, sys, time
here = pathlib.Path(os.environ["STATE"])
if (here / "refuse").exists():
    sys.exit("The model folder /nowhere does not exist.")
if (here / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with (here / "worker.pids").open("a") as pids:
    print(os.getpid(), file=pids)
time.sleep(1000)
"""

GATEWAY = """
import os, pathlib, time
from tests.unit.sagrada.stub import Answer, done, gateway, job, sse, token
here = pathlib.Path(os.environ["STATE"])
asked = []

def answers(request):
    asked.append(request.path)
    if request.path == "/readyz":
        ready = len(asked) > 2 and not (here / "refuse").exists()
        return Answer(200, {}) if ready else Answer(503, {"error": f"loading weights {len(asked)}/3"})
    if request.path == "/info":
        return Answer(200, {"model_id": "demo", "device": "cpu", "dtype": "float32", "queue": "sagrada.demo"})
    return Answer(202, job()) if request.method == "POST" else Answer(text=sse(token(0), token(1), done(2)))

(here / "gateway.pid").write_text(str(os.getpid()))
with gateway(answers, int(os.environ["PORT"])):
    time.sleep(1000)
"""


class Up:
    """One checkout with stand-ins, and the `up`s that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.port = folder, folder / "data", free_port()
        shutil.copytree(ROOT / "sagrada", folder / "sagrada", ignore=shutil.ignore_patterns("__pycache__"))
        for room, code in (("worker", WORKER), ("gateway", GATEWAY)):
            (folder / room).mkdir()
            (folder / room / "__init__.py").touch()
            (folder / room / "__main__.py").write_text(code)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "STATE": str(self.folder), "PORT": str(self.port)}
        command = [sys.executable, "-m", "sagrada", "up", "--data-dir", str(self.data), *options]
        with (self.folder / f"output-{len(self.started)}").open("wb") as output:
            up = subprocess.Popen(command, cwd=self.folder, env=env, stdout=output, stderr=output)
        self.started.append(up)
        return up

    @property
    def output(self) -> str:
        return (self.folder / f"output-{len(self.started) - 1}").read_text()

    def says(self, text: str) -> None:
        """Wait until the last `up` has said this."""
        until(lambda: text in self.output, what=f"{text!r} in: {self.output}")

    @property
    def workers(self) -> list[int]:
        """The pids of all workers so far."""
        path = self.folder / "worker.pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def redis_url(self) -> str:
        return self.output.partition("redis    ")[2].split()[0]

    def redis_pid(self) -> int:
        with Redis.from_url(self.redis_url) as redis:
            return int(redis.info("server")["process_id"])

    def pids(self) -> list[int]:
        return [*self.workers, int((self.folder / "gateway.pid").read_text()), self.redis_pid()]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    ups = Up(tmp_path)
    yield ups
    for process in ups.started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT)


def test_it_greets_serves_and_drains(up: Up) -> None:
    process = up.start("--workers", "2")
    up.says("Ctrl-C drains and stops.")
    for said in (
        "loading weights",
        "Ready after",
        "demo on cpu in float32, Celery queue sagrada.demo",
        "Once upon a timet0 t1",
        "2 tokens in",
    ):
        assert said in up.output
    assert len(up.workers) == 2
    pids = up.pids()
    with Redis.from_url(up.redis_url) as redis:
        redis.set("kept", "yes")
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 0, up.output
    assert "Draining" in up.output and "Stopped." in up.output
    assert not any(map(alive, pids))
    assert port_is_free(up.port)

    up.start()
    up.says("Ctrl-C drains and stops.")
    with Redis.from_url(up.redis_url) as redis:
        assert redis.get("kept") == b"yes"


def test_what_dies_is_started_again(up: Up) -> None:
    up.start()
    up.says("Ctrl-C drains and stops.")
    first, redis = up.workers[0], up.redis_pid()
    os.kill(first, signal.SIGKILL)
    up.says("worker-1 was killed by SIGKILL")
    until(lambda: len(up.workers) == 2, what="the second worker")
    with Redis.from_url(up.redis_url) as client:
        client.set("kept", "yes")
        client.config_set("appendfsync", "always")
        os.kill(redis, signal.SIGKILL)
        up.says("Redis has died")

    def answered() -> bool:
        try:
            with Redis.from_url(up.redis_url) as client:
                return bool(client.get("kept") == b"yes")
        except RedisError:
            return False

    until(answered, what="the second Redis, with the data of the first")


def test_a_model_that_cannot_be_loaded_ends_it_with_the_reason(up: Up) -> None:
    (up.folder / "refuse").touch()
    process = up.start()
    assert process.wait(TIMEOUT) == 1
    assert "worker-1 ended with status 1" in up.output
    assert "The model folder /nowhere does not exist." in up.output
    assert port_is_free(up.port)


def test_one_who_does_not_drain_is_killed_at_the_second_signal(up: Up) -> None:
    (up.folder / "stubborn").touch()
    process = up.start("--drain-timeout", "1000")
    up.says("Ctrl-C drains and stops.")
    pids = up.pids()
    process.send_signal(signal.SIGTERM)
    up.says("Draining")
    assert alive(up.workers[0])
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 0
    assert not any(map(alive, pids))


def test_one_who_does_not_drain_in_time_is_killed(up: Up) -> None:
    (up.folder / "stubborn").touch()
    process = up.start("--drain-timeout", "0")
    up.says("Ctrl-C drains and stops.")
    pids = up.pids()
    process.send_signal(signal.SIGHUP)
    assert process.wait(TIMEOUT) == 0
    assert not any(map(alive, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told by Linux alone")
def test_a_killed_one_leaves_no_process_and_can_be_followed(up: Up) -> None:
    process = up.start()
    up.says("Ctrl-C drains and stops.")
    pids = up.pids()
    process.kill()
    process.wait(TIMEOUT)
    until(lambda: not any(map(alive, pids)), what="the orphans to end")
    up.start()
    up.says("Ctrl-C drains and stops.")


def test_a_taken_port_and_a_held_folder_are_refused(up: Up) -> None:
    with socket.create_server(("127.0.0.1", up.port)):
        assert up.start().wait(TIMEOUT) == 1
        assert f"Port {up.port} of 127.0.0.1 is taken" in up.output
    assert up.start("--host", "192.0.2.1").wait(TIMEOUT) == 1
    assert "Cannot listen on 192.0.2.1" in up.output
    assert not up.data.exists()
    first = up.start()
    up.says("Ctrl-C drains and stops.")
    assert up.start("--port", str(free_port())).wait(TIMEOUT) == 1
    assert f"Another `sagrada up` (process {first.pid}) holds" in up.output


def test_a_given_redis_is_used_and_left_alone(up: Up, redis_url: str) -> None:
    process = up.start("--redis-url", redis_url)
    up.says("Ctrl-C drains and stops.")
    assert up.redis_url == redis_url
    assert not (up.data / "redis").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 0
    with Redis.from_url(redis_url) as redis:
        assert redis.ping()


def test_as_a_container_s_main_process_it_logs_where_it_stands_and_generates_no_sample(up: Up) -> None:
    process = up.start("--logs", "here", "--sample", "no")
    up.says("demo on cpu in float32, Celery queue sagrada.demo")
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 0, up.output
    assert "Once upon a time" not in up.output
    assert not (up.data / "logs").exists()
    (up.folder / "refuse").touch()
    assert up.start("--logs", "here", "--sample", "no").wait(TIMEOUT) == 1
    assert "The model folder /nowhere does not exist." in up.output
    assert "worker-1 ended with status 1: " in up.output and "Its log" not in up.output


def test_a_folder_that_it_may_not_write_into_is_said(up: Up) -> None:
    (up.folder / "file").touch()
    assert up.start("--data-dir", str(up.folder / "file" / "data")).wait(TIMEOUT) == 1
    assert f"Cannot keep data in {up.folder / 'file' / 'data'}: " in up.output
    assert "choose another folder with --data-dir" in up.output
