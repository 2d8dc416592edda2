"""A request that waits keeps its socket and gives its thread back.

Under gunicorn's threaded worker the view takes the client's socket over: it duplicates the descriptor, puts a dead
one in gunicorn's place, and ends its response with StopIteration, which gunicorn reads as "connection taken". From
then on whoever has data writes to the socket without blocking, and one epoll thread notices clients that leave and
flushes those that are slow. Where the socket is not to be had (Flask's test client, TLS, HTTP/2, no epoll) the same
exchange is a plain blocking response. tests/unit/gateway/test_contract.py holds what this relies on in gunicorn.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from flask import Response

from gateway import errors
from gateway.clock import Clock
from gateway.exchange import MAX_UNSENT, Blocking, Exchange, Headers, nobody

LINGER = 5.0
"""Seconds that a closing socket waits for the client's own close, so that no answer is cut off by a reset."""

STALL = 60.0
"""Seconds that a client may take to read what is left when its answer is complete."""

LARGE = 1 << 15
"""Bytes of an answer that the kernel may not take at once."""

KEEP_ALIVE = 30
"""Seconds of silence after which a client's host is asked whether it is still there."""

WSGIEnviron = dict[str, Any]


def _head(status: int, headers: Headers, extra: str) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}{extra}Connection: close\r\n\r\n".encode(
        "latin-1"
    )


class Poller:
    """The thread that watches every detached socket."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._epoll = select.epoll()
        self._sockets: dict[int, Detached] = {}

    def start(self) -> None:
        """Begin; once per process, after the fork."""
        threading.Thread(target=self._run, name="sockets", daemon=True).start()

    def __len__(self) -> int:
        return len(self._sockets)

    def add(self, client: Detached) -> None:
        """Watch this client from now on."""
        self._sockets[client.fd] = client
        self._epoll.register(client.fd, select.EPOLLIN | select.EPOLLRDHUP)

    def want_write(self, fd: int, wanted: bool) -> None:
        """Whether to hear when this client can take more."""
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLRDHUP | (select.EPOLLOUT if wanted else 0))

    def forget(self, fd: int) -> None:
        """Stop watching; before the descriptor is closed, or its next user would be watched instead."""
        if self._sockets.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _run(self) -> None:
        while True:
            for fd, events in self._epoll.poll():
                client = self._sockets.get(fd)
                if client is None:
                    continue
                if events & select.EPOLLOUT:
                    client.flush()
                if events & ~select.EPOLLOUT:
                    client.hear()


class Detached:
    """An exchange over a socket that no thread waits on."""

    def __init__(
        self, poller: Poller, sock: socket.socket, chunked: bool, common: Headers | None = None
    ) -> None:
        """`common`: what is in its head whatever the answer will be."""
        self._common = common or {}
        self._on_gone: Callable[[], None] = nobody
        self._poller, self._chunked = poller, chunked
        self._lock = threading.Lock()
        self._unsent, self._most = bytearray(), MAX_UNSENT
        self._ended = self._closed = False
        self._sock = _take(sock)
        self.fd = self._sock.fileno()
        poller.add(self)

    def attend(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once if the client leaves too early; at once if it has left already."""
        with self._lock:
            if not self._closed:
                self._on_gone = on_gone
                return
        if not self._ended:
            on_gone()

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response and close."""
        self._send(self._head(status, headers, f"Content-Length: {len(body)}\r\n") + body, last=True)

    def begin(self, headers: Headers) -> None:
        """Send the head of a streamed 200."""
        self._send(self._head(200, headers, "Transfer-Encoding: chunked\r\n" if self._chunked else ""))

    def write(self, data: bytes) -> None:
        """Send a piece of the body; a client that owes more than MAX_UNSENT and the largest is dropped."""
        if not data:
            return  # as a chunk it would say that the body has ended
        self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """End the body and close."""
        self._send(b"0\r\n\r\n" if self._chunked else b"", last=True)

    def _head(self, status: int, headers: Headers, extra: str) -> bytes:
        return _head(status, {**self._common, **headers}, extra)

    def _send(self, data: bytes, last: bool = False) -> None:
        with self._lock:
            if self._ended or self._closed:
                return
            waiting = bool(self._unsent)
            self._unsent += data
            self._most = max(self._most, MAX_UNSENT + len(data))
            self._ended = last
            alive = len(self._unsent) <= self._most if waiting else self._push()
            if alive and self._unsent and not waiting:
                self._poller.want_write(self.fd, True)
            if last and self._unsent:
                self._poller.clock.after(STALL, self._drop)
        if not alive:
            self._drop()

    def flush(self) -> None:
        """The client can take more: give it what is unsent."""
        with self._lock:
            if self._closed or not self._unsent:
                return
            alive = self._push()
            if alive and not self._unsent:
                self._poller.want_write(self.fd, False)
        if not alive:
            self._drop()

    def _push(self) -> bool:
        """Send what the kernel takes; False if the client is gone. Under the lock."""
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
            if self._ended:
                self._sock.shutdown(socket.SHUT_WR)
                self._poller.clock.after(LINGER, self._drop)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def hear(self) -> None:
        """The client said something: whatever it is, only its leaving matters. A half-close counts as leaving."""
        try:
            gone = not self._sock.recv(65536)
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._poller.forget(self.fd)
            self._sock.close()
            self._unsent = bytearray()
            gone, self._on_gone = self._on_gone, nobody
            complete = self._ended
        if not complete:
            gone()


def _take(sock: socket.socket) -> socket.socket:
    """Our own descriptor of the client's connection; gunicorn's now leads nowhere."""
    ours = socket.socket(fileno=os.dup(sock.fileno()))
    here, there = socket.socketpair()
    with here, there:
        os.dup2(here.fileno(), sock.fileno(), inheritable=False)
    ours.setblocking(False)
    if ours.family != socket.AF_UNIX:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that vanishes says nothing
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE // 3)
    return ours


class TakenOver(Response):
    """A response that starts the exchange and tells gunicorn that the connection is ours."""

    def __init__(self, poller: Poller, start: Callable[[Exchange], None]) -> None:
        super().__init__()
        self.headers.clear()  # what is put there from now on, by the application's hooks, is meant for the real head
        self._poller, self._start = poller, start

    def __call__(self, environ: WSGIEnviron, start_response: Any) -> Iterable[bytes]:
        """Take the socket; never returns."""
        chunked = environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        client = Detached(self._poller, environ["gunicorn.socket"], chunked, dict(self.headers))
        try:
            self._start(client)
        except Exception as error:  # gunicorn's own answer would go nowhere: the socket is ours
            response = errors.answer(error)
            client.answer(response.status_code, dict(response.headers), response.get_data())
        raise StopIteration


def respond(poller: Poller | None, environ: WSGIEnviron, start: Callable[[Exchange], None]) -> Response:
    """Let `start` have the exchange; the response to return from the view."""
    if environ.get("REQUEST_METHOD") == "HEAD":
        return Response()  # nobody would read what there is to wait for
    sock = environ.get("gunicorn.socket")
    plain = sock is not None and not isinstance(sock, ssl.SSLSocket) and environ.get("HTTP_VERSION") != "2"
    if poller is not None and plain:
        return TakenOver(poller, start)
    exchange = Blocking()
    start(exchange)
    return exchange.wait()


def hand_over(poller: Poller | None, environ: WSGIEnviron, response: Response) -> Response:
    """The same response; if it is long, no thread waits for its reader."""
    if environ.get("REQUEST_METHOD") == "HEAD" or (response.content_length or 0) <= LARGE:
        return response
    headers = {name: value for name, value in response.headers if name != "Content-Length"}
    status, body = response.status_code, response.get_data()
    return respond(poller, environ, lambda exchange: exchange.answer(status, headers, body))
