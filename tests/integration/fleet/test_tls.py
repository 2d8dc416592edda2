"""Redis behind TLS: every connection of every process speaks it, and trusts only what it was told to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError

from tests.support.fleet import Fleet
from tests.support.proxy import CERTIFICATE, Proxy
from tests.support.servers import serving
from tests.support.sse import follow


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis that is reached over TLS only."""
    with serving(tmp_path / "redis") as server, Proxy(server.port, tls=True) as proxy:
        yield f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={CERTIFICATE}"


def test_a_fleet_serves_over_tls(secure: str, tmp_path: Path) -> None:
    """Submit, stream, poll; a Celery producer too."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with Fleet(secure, logs, model="scripted", env={"SERVED_MODEL_NAME": "scripted"}) as fleet:
        fleet.ready()
        body = {"inputs": "a", "parameters": {"max_new_tokens": 20, "ignore_eos": True}}
        job = httpx.post(f"{fleet.url}/jobs", json=body, timeout=30).json()["id"]
        assert len(follow(fleet.url, job)) == 21
        backend = secure + "&ssl_cert_reqs=required"
        app = Celery(broker=backend, backend=backend, set_as_current=False)
        task = app.send_task("sagrada.generate", queue="sagrada.scripted", kwargs={"inputs": "a"})
        assert task.get(timeout=60)["finish_reason"]
        app.close()


def test_a_certificate_that_nobody_vouches_for_is_refused(secure: str) -> None:
    with (
        Redis.from_url(secure.partition("?")[0]) as client,
        pytest.raises(ConnectionError, match="certificate"),
    ):
        client.ping()
