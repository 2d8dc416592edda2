"""Every kind of connection that Sagrada makes, by way of a real sentinel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection
from redis.exceptions import ConnectionError, RedisError

from sagrada.embedded import free_port
from tests.support.processes import until
from tests.support.proxy import CERTIFICATE, Proxy
from tests.support.sentinels import NAME, Sentinels
from wire import redis_url
from wire.backend import backend_settings
from wire.resp import RespConnection
from wire.transport import broker_url


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with Sentinels(tmp_path_factory.mktemp("sentinels"), 1) as running:
        yield running


def test_a_sentinel_that_is_away_is_passed_over(sentinels: Sentinels) -> None:
    url = f"sentinel://127.0.0.1:{free_port()};{sentinels.url()}"
    assert redis_url.sentinels(url).discover_master(NAME) == ("127.0.0.1", sentinels.master.port)


def test_why_there_is_no_master_is_said(sentinels: Sentinels) -> None:
    gone, there = free_port(), sentinels.ports[0]
    url = f"sentinel://127.0.0.1:{gone};sentinel://127.0.0.1:{there}?master_name=another"
    with redis_url.client(url) as client, pytest.raises(ConnectionError) as error:
        client.ping()
    said = str(error.value)
    assert "no sentinel names a master 'another' now" in said
    assert f"127.0.0.1:{gone}: Error" in said and f"127.0.0.1:{there}: it knows of {NAME}" in said


def test_sentinels_over_tls(sentinels: Sentinels) -> None:
    with Proxy(sentinels.ports[0], tls=True) as proxy:
        url = f"sentinel://127.0.0.1:{proxy.port}?master_name={NAME}&sentinel_ssl=true"
        trusting = redis_url.sentinels(f"{url}&ssl_ca_certs={CERTIFICATE}")
        assert trusting.discover_master(NAME) == ("127.0.0.1", sentinels.master.port)
        with pytest.raises(ConnectionError, match="certificate"):
            redis_url.sentinels(url).discover_master(NAME)


def test_servers_over_tls(sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentinel that speaks no TLS itself cannot watch such a server: its word is put into its mouth."""
    with Proxy(sentinels.master.port, tls=True) as proxy:
        monkeypatch.setattr(redis_url.Sentinels, "discover_master", lambda *_: ("127.0.0.1", proxy.port))
        url = sentinels.url(query=f"&ssl_ca_certs={CERTIFICATE}")
        with redis_url.client(url) as client, closing(RespConnection(url)) as raw:
            client.set("over", "TLS")
            assert raw.call([("GET", "over")]) == [b"TLS"]
        with Connection(broker_url(url)) as connection, connection.channel() as channel:
            assert channel.client.get("over") == b"TLS"
        with redis_url.client(sentinels.url(query="&ssl_cert_reqs=required")) as client:
            with pytest.raises(ConnectionError, match="certificate"):
                client.ping()


@pytest.mark.full
def test_a_master_that_was_replaced_while_it_lives_is_left(sentinels: Sentinels) -> None:
    """It keeps its connections, and takes itself for the master for a while."""
    new = sentinels.replica
    with redis_url.client(sentinels.url()) as client:
        client.ping()
        sentinels.fail_over()
        sentinels.promoted(new)
        # The sentinels hear of it from each other.
        until(lambda: redis_url.ask_for_master(client) == ("127.0.0.1", new.port), 30, "the new master")
        assert client.info("server")["tcp_port"] == new.port
    with redis_url.client(f"redis://127.0.0.1:{new.port}") as client:
        assert redis_url.ask_for_master(client) is None
    with redis_url.client(f"sentinel://127.0.0.1:{free_port()}?master_name=m") as client:
        assert redis_url.ask_for_master(client) is None
    until(lambda: sentinels.follows(sentinels.replica), 60, "the old master to follow the new")


def test_a_failover(sentinels: Sentinels) -> None:
    """Connections made before it break, and lead to the new master when they are made again; nothing else happens."""
    url = sentinels.url(db=3)
    old, new = sentinels.master, sentinels.replica
    with (
        redis_url.client(url) as client,
        redis_url.client(url, blocking=True, timeout=1, max_connections=2) as bounded,
        Connection(broker_url(url)) as connection,
        Celery(set_as_current=False, changes={**backend_settings(url), "result_expires": None}) as app,
    ):
        backend: Any = app.backend

        def raw() -> int:
            with closing(RespConnection(url)) as made:
                return int(made.call([("INCR", "raw")])[0])

        def put() -> int:
            channel = connection.default_channel
            channel._put("sagrada.q", {"properties": {"delivery_tag": "t"}, "headers": {"id": "j"}})
            return int(channel._size("sagrada.q"))

        def result() -> bool:
            backend.set("result", "stored")
            return bool(backend.get("result") == b"stored")

        uses: list[Callable[[], Any]] = [
            lambda: client.incr("client"), lambda: bounded.incr("bounded"), raw, put, result,
        ]  # fmt: skip
        assert [use() for use in uses] == [1, 1, 1, 1, True]
        until(lambda: sentinels.caught_up(new), 30, "the replica to have it all")
        old.kill()
        with pytest.raises(ConnectionError):
            client.ping()
        sentinels.promoted(new)
        for use in uses:
            until(
                use, 30, "a connection to the new master", despite=(RedisError, *connection.connection_errors)
            )
        assert client.connection_pool.connection_kwargs["db"] == 3
        assert int(client.get("client") or 0) == 2 and client.info("server")["tcp_port"] == new.port
