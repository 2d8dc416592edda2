"""What the way to Redis by its sentinels relies on, in kombu, celery and redis-py; beside test_contract.py."""

from __future__ import annotations

import inspect
from typing import Any

import kombu.transport
import pytest
import redis.sentinel
from celery import Celery
from celery.worker.consumer.connection import Connection as ConnectionStep
from kombu.connection import Connection
from kombu.transport import redis as stock
from redis.exceptions import ConnectionError, ReadOnlyError, ResponseError
from redis.sentinel import SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from wire import sentinel, transport
from wire.backend import backend_settings
from wire.redis_url import Sentinels, client, leaving, parse, sentinels
from worker.results import BACKENDS, SentinelResults

URL = "sentinel://u:hush@a:1;sentinel://b:2/3?master_name=m&sentinel_password=hush"
TLS = URL + "&ssl_ca_certs=/ca&sentinel_ssl=true"


def source(thing: Any) -> str:
    return inspect.getsource(thing)


def unconnected(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A channel of ours as it is before its first connection."""
    monkeypatch.setattr(redis.Redis, "ping", lambda self: True)
    return Connection(transport.broker_url(url), transport_options={"socket_timeout": 7}).channel()


def backend_pool(url: str) -> Any:
    """The connections of the result backend that a worker has."""
    with Celery(set_as_current=False, changes=backend_settings(url)) as app:
        app.loader.override_backends = dict(BACKENDS)
        backend = app.backend
        assert isinstance(backend, SentinelResults)
        return backend._get_pool(**backend.connparams)


def test_a_broker_url_is_one_string_and_survives_kombu() -> None:
    connection = Connection(transport.broker_url(TLS)).clone()
    assert kombu.transport.resolve_transport("sagrada-sentinel") is sentinel.SentinelTransport
    assert connection.transport.sentinels is sentinels(TLS)
    assert (connection.virtual_host, connection.ssl, connection.alt) == ("3", {"ssl_ca_certs": "/ca"}, [])


def test_nothing_that_kombu_and_celery_show_holds_a_secret() -> None:
    connection = Connection(transport.broker_url(URL))
    assert connection.as_uri() == "sagrada-sentinel://:**@a:1/3"
    assert 'pop("password"' in source(ConnectionStep.info).replace("'", '"'), "what `celery inspect` shows"
    assert "hush" not in repr(
        {name: value for name, value in connection.info().items() if name != "password"}
    )
    with Celery(set_as_current=False) as app:
        app.conf.update(broker_url=transport.broker_url(URL), **backend_settings(URL))
        assert "hush" not in repr(app.conf.table(with_defaults=False, censored=True))
        assert "hush" not in app.backend.as_uri()
    assert "hush" not in repr(parse(URL))


@pytest.mark.parametrize(
    ("url", "kind"),
    [(URL, SentinelManagedConnection), (TLS, SentinelManagedSSLConnection)],
    ids=["plain", "TLS"],
)
def test_a_channel_s_pools_ask_our_sentinels(url: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = unconnected(url, monkeypatch)
    assert "self._get_pool(asynchronous=True)" in source(stock.Channel)
    assert "channel._on_connection_disconnect(self)" in source(stock.Channel._connparams)
    for pool in (channel.pool, channel.async_pool):
        options = pool.connection_kwargs
        assert pool.sentinel_manager is sentinels(url) and pool.service_name == "m"
        assert (options["username"], options["password"], options["db"]) == ("u", "hush", 3)
        assert options["socket_timeout"] == 7 and not {"host", "port"} & options.keys()
        assert issubclass(pool.connection_class, kind)
        assert options.get("ssl_ca_certs") == ("/ca" if url is TLS else None)
    assert channel.keyprefix_fanout == "/3."
    assert channel._connparams()["connection_class"] in vars(sentinel.SentinelChannel).values()


def test_redis_py_asks_before_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def nobody(self: object, service_name: str) -> tuple[str, int]:
        asked.append(service_name)
        return "127.0.0.1", 1

    for kind in (Sentinels, redis.sentinel.Sentinel):
        monkeypatch.setattr(kind, "discover_master", nobody)
    with client(URL) as made:
        for _ in range(2):
            with pytest.raises(ConnectionError, match="127.0.0.1:1"):
                made.ping()
    assert asked == ["m", "m"]
    asked.clear()
    for pool in (made.connection_pool, backend_pool(URL)):
        with pytest.raises(ConnectionError, match="127.0.0.1:1"):
            pool.make_connection().send_command("PING")
    assert asked == ["m"] * 2, "and before a command that finds its connection closed, as after a timeout"
    assert "connection_pool" in source(SentinelManagedConnection.__init__), "what RespConnection passes on"
    assert "self.sentinel_manager.discover_master(" in source(redis.sentinel.SentinelConnectionPoolProxy)
    assert issubclass(SentinelConnectionPool, redis.ConnectionPool)


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        (ReadOnlyError("You can't write against a read only replica."), ConnectionError),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), ConnectionError),
        (ResponseError("WRONGTYPE"), ResponseError),
    ],
)
def test_a_connection_to_who_cannot_write_is_left(said: Exception, raised: type[Exception]) -> None:
    left: list[bool] = []

    class Stub:
        def read_response(self) -> None:
            raise said

        def disconnect(self) -> None:
            left.append(True)

    with pytest.raises(raised):
        leaving(Stub)().read_response()
    assert left == [True] * (raised is ConnectionError)
    for kind in (transport.Channel.connection_class, transport.Channel.connection_class_ssl):
        assert kind in (leaving(redis.Connection), leaving(redis.SSLConnection))


@pytest.mark.parametrize("url", [URL, TLS], ids=["plain", "TLS"])
def test_celery_s_result_backend_asks_the_same_sentinels(url: str) -> None:
    pool = backend_pool(url)
    assert issubclass(pool.connection_class, SentinelManagedConnection)
    assert issubclass(pool.connection_class, redis.SSLConnection) is (url is TLS)
    options, asking = pool.connection_kwargs, pool.sentinel_manager.sentinel_kwargs
    nodes = [node.connection_pool.connection_kwargs for node in pool.sentinel_manager.sentinels]
    assert [(node["host"], node["port"]) for node in nodes] == [("a", 1), ("b", 2)]
    assert pool.service_name == "m"
    assert (options["username"], options["password"], options["db"]) == ("u", "hush", 3)
    assert asking["password"] == "hush" and "username" not in asking
    assert options.get("ssl_ca_certs") == asking.get("ssl_ca_certs") == ("/ca" if url is TLS else None)


def test_a_pop_that_is_never_answered_is_given_up() -> None:
    """A server whose machine is gone: kombu's own check, by what our channel keeps for it."""
    check = source(stock.MultiChannelPoller.maybe_check_brpop_health)
    for kept in ("channel._in_poll", "channel._brpop_sent_at", "channel.health_check_interval"):
        assert kept in check
    assert "health_check_interval" in stock.Channel.from_transport_options
