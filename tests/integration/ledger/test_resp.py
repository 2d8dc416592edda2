"""The raw connection against a real Redis: pipelines, pub/sub, errors, and every way to be cut off."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError, NoScriptError, ResponseError

from sagrada.embedded import EmbeddedServer
from tests.support.processes import until
from wire.resp import RespConnection


@pytest.fixture
def connection(redis_url: str) -> Iterator[RespConnection]:
    raw = RespConnection(redis_url)
    yield raw
    raw.close()


def test_a_pipeline_is_answered_in_order_errors_included(connection: RespConnection) -> None:
    replies = connection.call(
        [("SET", "k", b"\x00\xff"), ("GET", "k"), ("INCR", "k"), ("GET", "none"), ("EVALSHA", "0" * 40, 0)]
    )
    assert replies[0] == b"OK"
    assert replies[1] == b"\x00\xff"
    assert isinstance(replies[2], ResponseError)
    assert replies[3] is None
    assert isinstance(replies[4], NoScriptError)
    assert connection.call([("LRANGE", "l", 0, -1), ("INCRBYFLOAT", "f", 1.5)]) == [[], b"1.5"]
    assert connection.call([]) == []


def test_large_pipelines_pass_both_ways(connection: RespConnection) -> None:
    value = b"x" * 300_000
    replies = connection.call([("SET", "big", value)] + [("GET", "big")] * 50)
    assert replies == [b"OK"] + [value] * 50


def test_drain_takes_what_is_there_and_never_waits(connection: RespConnection, redis: Redis) -> None:
    client: Any = redis
    assert connection.drain() == []
    connection.send([("SUBSCRIBE", "c")])
    assert connection.read(1) == [[b"subscribe", b"c", 1]]
    for n in range(1000):
        client.publish("c", str(n))
    heard: list[Any] = []

    def all_heard() -> bool:
        if select.select([connection], [], [], 1)[0]:
            heard.extend(connection.drain())
        return len(heard) >= 1000

    until(all_heard)
    assert heard == [[b"message", b"c", str(n).encode()] for n in range(1000)]


def test_a_cut_connection_is_an_error_for_every_use(redis_url: str, redis: Redis) -> None:
    client: Any = redis
    uses: tuple[Callable[[RespConnection], object], ...] = (
        lambda c: c.call([("PING",)]),
        lambda c: c.read(1),
        lambda c: until(lambda: c.drain() and False),
    )
    for use in uses:
        raw = RespConnection(redis_url)
        (number,) = raw.call([("CLIENT", "ID")])
        client.client_kill_filter(_id=number)
        with pytest.raises(ConnectionError):
            use(raw)
        raw.close()


def test_a_server_that_is_silent_or_does_not_read_is_given_up(redis_url: str) -> None:
    raw = RespConnection(redis_url, timeout=0.1)
    with pytest.raises(ConnectionError, match=r"within 0\.1 s"):
        raw.call([("BLPOP", "nothing", 0)])
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        accepted: list[socket.socket] = []

        def shake_hands_and_fall_silent() -> None:
            accepted.append(deaf.accept()[0])
            accepted[0].sendall(b"+OK\r\n" * 2)

        thread = threading.Thread(target=shake_hands_and_fall_silent)
        thread.start()
        raw = RespConnection(url, timeout=1)
        thread.join()
        with pytest.raises(ConnectionError, match="within 1 s"):
            raw.call([("SET", "k", b"x" * 50_000_000)])
        accepted[0].close()


def test_what_is_no_redis_is_given_up(redis_url: str) -> None:
    raw = RespConnection(redis_url)
    raw._reader.feed(b"HTTP/1.1 400 Bad Request\r\n")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            raw.call([("PING",)])


def test_nobody_listening_is_a_connection_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionError):
        RespConnection(f"redis://127.0.0.1:{port}/0")


def test_database_user_and_password_come_from_the_url(redis_url: str, redis: Redis) -> None:
    client: Any = redis
    client.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all")
    try:
        place = redis_url.partition("//")[2].partition("/")[0]
        raw = RespConnection(f"redis://worker:secret@{place}/3")
        assert raw.call([("ACL", "WHOAMI")]) == [b"worker"]
        assert b"db=3" in raw.call([("CLIENT", "INFO")])[0]
        raw.close()
        with pytest.raises(AuthenticationError):
            RespConnection(f"redis://worker:wrong@{place}/0")
    finally:
        client.execute_command("ACL", "DELUSER", "worker")


def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    place = tmp_path / "redis.sock"
    server = EmbeddedServer(tmp_path, aof=False, flags=("--loglevel", "warning", "--unixsocket", str(place)))
    server.start()
    try:
        raw = RespConnection(f"unix://{place}?db=1")
        assert raw.call([("SET", "k", "v"), ("GET", "k")]) == [b"OK", b"v"]
        raw.close()
    finally:
        server.stop()


def test_a_client_serves_as_well_as_its_url(redis_url: str) -> None:
    with Redis.from_url(redis_url.removesuffix("/0") + "/5", decode_responses=True) as client:
        raw = RespConnection(client)
        assert raw.call([("ECHO", b"\xff")]) == [b"\xff"]
        assert b"db=5" in raw.call([("CLIENT", "INFO")])[0]
        raw.close()
