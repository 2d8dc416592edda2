"""A request that waits keeps its socket and gives its thread back.

Under gunicorn's threaded worker the view takes the client's socket over: it duplicates the descriptor, puts a dead
one in gunicorn's place, and ends its response with StopIteration, which gunicorn reads as "connection taken". From
then on whoever has data writes to the socket without blocking, and one epoll thread notices clients that leave and
flushes those that are slow. Where the socket is not to be had (Flask's test client, TLS, HTTP/2, no epoll) the same
exchange is a plain blocking response. tests/unit/gateway/test_contract.py holds what this relies on in gunicorn.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Protocol

from flask import Response

from gateway import errors
from gateway.clock import Clock

MAX_UNSENT = 1 << 20
"""Bytes a slow client may owe us before it is dropped; it resumes by Last-Event-ID."""

LINGER = 5.0
"""Seconds that a closing socket waits for the client's own close, so that no answer is cut off by a reset."""

Headers = Mapping[str, str]
WSGIEnviron = dict[str, Any]


class Exchange(Protocol):
    """The answer to one request, written by whoever has it, whenever it comes."""

    def attend(self, on_gone: Callable[[], None]) -> None:
        """Have `on_gone` called, once, if the client leaves or is dropped before the answer is complete."""

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response; nothing may follow."""

    def begin(self, headers: Headers) -> None:
        """Send the head of a 200 whose body is streamed."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body; never blocks."""

    def end(self) -> None:
        """The body is complete."""


def _nobody() -> None:
    """Nobody to tell."""


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

    def __init__(self, poller: Poller, sock: socket.socket, chunked: bool) -> None:
        self._on_gone: Callable[[], None] = _nobody
        self._poller, self._chunked = poller, chunked
        self._lock = threading.Lock()
        self._unsent = bytearray()
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
        self._send(_head(status, headers, f"Content-Length: {len(body)}\r\n") + body, last=True)

    def begin(self, headers: Headers) -> None:
        """Send the head of a streamed 200."""
        self._send(_head(200, headers, "Transfer-Encoding: chunked\r\n" if self._chunked else ""))

    def write(self, data: bytes) -> None:
        """Send a piece of the body; a client that owes more than MAX_UNSENT is dropped."""
        self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """End the body and close."""
        self._send(b"0\r\n\r\n" if self._chunked else b"", last=True)

    def _send(self, data: bytes, last: bool = False) -> None:
        with self._lock:
            if self._ended or self._closed:
                return
            waiting = bool(self._unsent)
            self._unsent += data
            self._ended = last
            alive = len(self._unsent) <= MAX_UNSENT if waiting else self._push()
            if alive and self._unsent and not waiting:
                self._poller.want_write(self.fd, True)
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
            gone, self._on_gone = self._on_gone, _nobody
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
    return ours


class Blocking:
    """The same exchange where the socket cannot be taken: the request's thread waits and yields the pieces."""

    def __init__(self) -> None:
        self._on_gone: Callable[[], None] = _nobody
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._head: queue.SimpleQueue[Response] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unsent = 0
        self._ended = False

    def attend(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` if the response is closed before its end; a leaver is noticed at the next piece."""
        self._on_gone = on_gone

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Hand the waiting view its response."""
        self._ended = True
        self._head.put(Response(body, status, dict(headers)))

    def begin(self, headers: Headers) -> None:
        """Hand the waiting view a response that goes on."""
        self._head.put(Response(self._body(), 200, dict(headers), direct_passthrough=True))

    def write(self, data: bytes) -> None:
        """Queue a piece; what a client owes is bounded here too."""
        with self._lock:
            self._unsent += len(data)
            dropped = self._unsent > MAX_UNSENT
        self._pieces.put(None if dropped else data)

    def end(self) -> None:
        """End the body."""
        self._ended = True
        self._pieces.put(None)

    def wait(self) -> Response:
        """The response, once its head is known."""
        return self._head.get()

    def _body(self) -> Iterator[bytes]:
        try:
            while (piece := self._pieces.get()) is not None:
                with self._lock:
                    self._unsent -= len(piece)
                yield piece
        finally:
            if not self._ended:
                self._on_gone()


class TakenOver(Response):
    """A response that starts the exchange and tells gunicorn that the connection is ours."""

    def __init__(self, poller: Poller, start: Callable[[Exchange], None]) -> None:
        super().__init__()
        self._poller, self._start = poller, start

    def __call__(self, environ: WSGIEnviron, start_response: Any) -> Iterable[bytes]:
        """Take the socket; never returns."""
        chunked = environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        client = Detached(self._poller, environ["gunicorn.socket"], chunked)
        try:
            self._start(client)
        except Exception as error:  # gunicorn's own answer would go nowhere: the socket is ours
            response = errors.answer(error)
            client.answer(response.status_code, dict(response.headers), response.get_data())
        raise StopIteration


def respond(poller: Poller | None, environ: WSGIEnviron, start: Callable[[Exchange], None]) -> Response:
    """Let `start` have the exchange; the response to return from the view."""
    sock = environ.get("gunicorn.socket")
    plain = sock is not None and not isinstance(sock, ssl.SSLSocket) and environ.get("HTTP_VERSION") != "2"
    if poller is not None and plain:
        return TakenOver(poller, start)
    exchange = Blocking()
    start(exchange)
    return exchange.wait()
