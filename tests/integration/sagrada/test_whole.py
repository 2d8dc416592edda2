"""`sagrada up` with the real gateway and worker (the scripted model), and what the README tells people to type."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from sagrada.client import Client
from sagrada.embedded import free_port
from tests.integration.sagrada.test_up import TIMEOUT
from tests.support.processes import alive, until

ROOT = Path(__file__).parents[3]
TEXTS = ("README.md", "docs/streams.md")
FAST, SLOW = "scripted", "scripted?step=0.02"


class Whole:
    """One data folder and the `up`s over it, serving the scripted model under the name `demo`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, model: str, *options: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "SERVED_MODEL_NAME": "demo", "LEASE_SECONDS": "2"}
        command = [sys.executable, "-m", "sagrada", "up", "--model-id", model, "--port", str(self.port)]
        command += ["--data-dir", str(self.folder / "data"), *options]
        with (self.folder / f"output-{len(self.started)}").open("wb") as output:
            up = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
        self.started.append(up)
        until(lambda: "Ctrl-C drains and stops." in self.output or up.poll() is not None, what=self.output)
        assert up.poll() is None, self.output
        return up

    @property
    def output(self) -> str:
        return (self.folder / f"output-{len(self.started) - 1}").read_text()

    @property
    def redis_url(self) -> str:
        return self.output.partition("redis    ")[2].split()[0]


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    ups = Whole(tmp_path)
    yield ups
    for up in ups.started:
        if up.poll() is None:
            up.send_signal(signal.SIGTERM)
            up.wait(TIMEOUT)


def family(pid: int) -> list[int]:
    """Every descendant of a process."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listing.read_text().split():
            found += [int(child), *family(int(child))]
    return found


def test_a_second_up_finds_the_jobs_of_the_first(whole: Whole) -> None:
    parameters = {"max_new_tokens": 100, "ignore_eos": True, "do_sample": True, "seed": 7}
    up = whole.start(SLOW, "--slots", "4", "--drain-timeout", "0.5")
    with Client(whole.url) as client:
        jobs = [client.submit(f"prompt {n % 2}", parameters).id for n in range(12)]
        first = next(client.stream(jobs[0]))
        processes = family(up.pid)
        assert len(processes) >= 4
        up.send_signal(signal.SIGINT)
        assert up.wait(TIMEOUT) == 0, whole.output
        assert not any(map(alive, processes))

        whole.start(SLOW)
        finished = [client.wait(job, timeout=TIMEOUT) for job in jobs]
        events = list(client.stream(jobs[0]))
    assert [job.status for job in finished] == ["completed"] * 12
    texts = {job.result.text for job in finished if job.result}
    assert len(texts) == 2
    assert events[0] == first
    tokens = [event for event in events if event.type == "token"]
    assert [event.seq for event in tokens] == list(range(100))
    assert "".join(event.text for event in tokens) in texts


def blocks(language: str) -> list[tuple[str, str]]:
    """(file, code) of every fenced block in the texts for users."""
    return [
        (name, code)
        for name in TEXTS
        for code in re.findall(
            rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE
        )
    ]


def test_what_the_texts_tell_to_type_works(whole: Whole) -> None:
    whole.start(FAST)
    for name, code in blocks("python"):
        code = code.replace("redis://127.0.0.1:6379/0", whole.redis_url)
        code = code.replace("redis.Redis()", f"redis.Redis.from_url({whole.redis_url!r})")
        text = subscribe(code, whole) if "job_id" in code else output_of([sys.executable, "-c", code])
        assert text == expected(whole), name
    for name, code in blocks("sh"):
        if "curl" in code and shutil.which("curl"):
            check_curls(code, whole, name)


def output_of(command: list[str]) -> str:
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.removesuffix("\n")


def expected(whole: Whole) -> str:
    with Client(whole.url) as client:
        job = client.generate("Once upon a time", {"max_new_tokens": 64})
    assert job.result is not None
    return job.result.text


def subscribe(code: str, whole: Whole) -> str:
    """What the subscriber prints of a job that is sent once it has subscribed."""
    job_id = "chosen-by-the-producer-" + str(time.monotonic_ns())
    command = [sys.executable, "-c", f"job_id = {job_id!r}\n{code}"]
    with (
        Redis.from_url(whole.redis_url) as redis,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as subscriber,
    ):
        channel = f"sagrada:{{{job_id}}}:tokens"
        until(lambda: dict(redis.pubsub_numsub(channel))[channel.encode()], what="the subscriber")
        with Celery(broker=whole.redis_url) as app:
            call: dict[str, Any] = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 64}}
            app.send_task("sagrada.generate", kwargs=call, queue="sagrada.demo", task_id=job_id)
        said, complaint = subscriber.communicate(timeout=TIMEOUT)
    assert subscriber.returncode == 0, complaint.decode()
    return said.decode()


def check_curls(code: str, whole: Whole, name: str) -> None:
    """Submit, poll, stream, resume, cancel, as they stand in the text."""
    code = re.sub(r"\s+#.*", "", code).replace("\\\n", " ").replace("localhost:8080", whole.url)
    submit, *others = code.strip().splitlines()
    job_id = re.findall(r'"id":\s*"(\w+)"', output_of(["sh", "-c", submit]))[0]
    run = [output_of(["sh", "-c", line.replace("/ID", f"/{job_id}")]) for line in others]
    poll, stream, resumed, cancel = run
    assert '"completed"' in poll and '"completed"' in cancel, name
    assert [int(n) for n in re.findall(r"^id: (\d+)", stream, re.MULTILINE)] == list(range(65))
    assert [int(n) for n in re.findall(r"^id: (\d+)", resumed, re.MULTILINE)] == list(range(18, 65))
