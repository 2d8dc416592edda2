"""The gateway's healthcheck: well while it can do its own work, whatever its workers do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sagrada.embedded import EmbeddedServer, free_port
from tests.integration.gateway.conftest import GatewayProcess
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until


def health(port: int, *options: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Its exit code, and what it said."""
    env = {**os.environ, "PORT": str(port), "HOST": host}
    command = [sys.executable, "-m", "gateway.health", *options]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    assert not ran.stderr, ran.stderr
    return ran.returncode, ran.stdout


def test_a_gateway_is_well_before_a_model_is_served(gateway: GatewayProcess, redis_url: str) -> None:
    until(
        lambda: health(gateway.port, "--serving")[0] == 1, 30, "the gateway to forget the last test's worker"
    )
    code, said = health(gateway.port)
    assert code == 0 and "no worker" in said
    assert health(gateway.port, host="0.0.0.0")[0] == 0
    with FakeWorker(redis_url) as worker:
        worker.state = "loading"
        worker.publish()
        until(lambda: "loading" in health(gateway.port)[1], 30, "the gateway to hear of the worker")
        assert (health(gateway.port)[0], health(gateway.port, "--serving")[0]) == (0, 1)
        worker.state = "serving"
        worker.publish()
        until(lambda: health(gateway.port, "--serving")[0] == 0, 30, "a model that is served")


def test_a_gateway_without_redis_is_ill(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "redis", aof=False)
    server.start()
    with GatewayProcess(server.url, tmp_path / "gateway.log") as gateway:
        assert health(gateway.port)[0] == 0
        server.kill()
        until(lambda: health(gateway.port)[0] == 1, 30, "the gateway to miss Redis")
        assert "Redis does not answer" in health(gateway.port)[1]


def test_what_does_not_answer_is_ill() -> None:
    code, said = health(free_port())
    assert code == 1 and "refused" in said


def test_a_setting_that_cannot_be_read_is_said() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "gateway.health"],
        env={**os.environ, "PORT": "x"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1 and "PORT must be a number" in ran.stdout
