"""What gateway/detach.py and gateway/door.py rely on in gunicorn; a new one that breaks it breaks them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

from gateway.__main__ import settings
from gateway.config import Config as GatewayConfig
from gateway.detach import _take
from gateway.door import DoorWorker


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(client, server) ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=10)
        server, _ = listener.accept()
    with client:
        yield client, server


def handled(server: socket.socket, wsgi: Any) -> tuple[TConn, Any]:
    """What gunicorn's thread makes of one request on this connection."""
    cfg = Config()
    worker = ThreadWorker(1, 1, [], None, 30, cfg, Logger(cfg))
    worker.wsgi, worker.alive = wsgi, True
    conn = TConn(cfg, server, ("127.0.0.1", 1), ("127.0.0.1", 2))
    try:
        return conn, worker.handle(conn)
    finally:
        worker.tmp.close()


def test_a_taken_connection_is_answered_by_us_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    seen: dict[str, Any] = {}

    def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
        seen.update(environ, body=environ["wsgi.input"].read(100))
        seen["ours"] = _take(environ["gunicorn.socket"])
        raise StopIteration

    conn, keepalive = handled(server, wsgi)
    assert keepalive is False, "StopIteration reads as: the connection is not yours any more"
    assert seen["body"] == b"hi" and seen["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert isinstance(seen["gunicorn.socket"], socket.socket) and "HTTP_VERSION" not in seen

    conn.close(graceful=True)  # what gunicorn does next
    ours: socket.socket = seen["ours"]
    with ours:
        assert not ours.getblocking()
        ours.send(b"from us")
        assert client.recv(100) == b"from us", "nothing of gunicorn's came before, and the connection lives"
    assert client.recv(100) == b"", "closed when we close"


def test_closing_gunicorns_end_takes_no_time(pair: tuple[socket.socket, socket.socket]) -> None:
    """It happens in gunicorn's main thread: lingering on the dead socket would stop everybody."""
    _, server = pair
    with _take(server):
        server.settimeout(0)
        server.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b"", "the socket in our place is at its end already"
        server.close()


def test_every_setting_is_known_to_gunicorn() -> None:
    cfg = Config()
    for name, value in settings(GatewayConfig()).items():
        cfg.set(name, value)
    assert cfg.worker_class is DoorWorker
    logging.getLogger("gunicorn.error").handlers.clear()
