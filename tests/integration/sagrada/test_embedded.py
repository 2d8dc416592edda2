"""The server that `up` starts: found, awaited, durable, gone when it should be."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from sagrada.embedded import EmbeddedServer, NoServer, find_server, free_port, port_is_free


def test_data_survives_a_stop_and_a_crash(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    try:
        with Redis.from_url(server.url) as redis:
            redis.set("a", "1")
            server.stop()
            assert not server.alive
            server.start()
            assert redis.get("a") == b"1"
            redis.set("b", "2")
            server.kill()
            server.start()
            assert redis.mget("a", "b") == [b"1", b"2"]
    finally:
        server.stop()
    assert port_is_free(server.port)


def test_without_a_file_everything_is_forgotten(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, aof=False)
    server.start()
    with Redis.from_url(server.url) as redis:
        redis.set("a", "1")
        server.stop()
        server.start()
        assert redis.get("a") is None
    server.stop()


def test_a_taken_port_is_told_with_the_servers_own_words(
    tmp_path: Path, redis_server: EmbeddedServer
) -> None:
    second = EmbeddedServer(tmp_path, redis_server.port)
    with pytest.raises(NoServer, match=rf"did not start on port {redis_server.port}.*in use"):
        second.start()
    assert not second.alive


def test_no_client_is_given_the_port_of_a_server_that_is_away(redis_server: EmbeddedServer) -> None:
    """As it may be where the kernel chooses: then it is connected to itself, and the server cannot come back."""
    where = ("127.0.0.1", redis_server.port)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(where, 10)) for _ in range(500)]
        assert max(free_port() for _ in range(500)) < min(client.getsockname()[1] for client in clients)


def test_no_server_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagrada.embedded._candidates", lambda: iter([tmp_path / "missing"]))
    with pytest.raises(NoServer, match="install redis-server or valkey-server"):
        find_server()


def test_a_server_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_server() != old
