"""Reads a request's body: declared as JSON, of bounded size, from a client that does not dawdle."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flask import Flask, Request, Response, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge, RequestTimeout

from gateway.errors import WrongContentType

PATIENCE = 30.0
"""Seconds without a byte after which a client is given up: it holds a thread meanwhile."""

LAST_PATIENCE = 2.0
"""Seconds for all of a body that nobody will look at."""

CHUNK = 1 << 13
"""Bytes that are read at once: what the clock is looked at between."""
DISCARD = 1 << 24
"""Bytes of a body that is too large which are still read, so that the client hears why instead of a reset."""


def json_body(request: Request, most: int) -> bytes:
    """The body, at most `most` bytes; WrongContentType, RequestEntityTooLarge, RequestTimeout, ClientDisconnected."""
    if not request.is_json:
        raise WrongContentType("send the body as JSON, with the header `Content-Type: application/json`")
    try:
        with _patience(request, PATIENCE):
            return _read(request, most)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {PATIENCE:g} s") from None


def install(app: Flask, most: int) -> None:
    """Have at most `most` bytes of a body read that a request was refused without: gunicorn closes a connection with
    much of one left, under a client that sends its next request."""

    @app.after_request
    def finish(response: Response) -> Response:
        refused = response.status_code >= 400 and ("CONTENT_LENGTH" in request.environ or _is_chunked())
        if refused:
            with suppress(OSError), _patience(request, LAST_PATIENCE):  # else it is closed after all
                _skip(request, most, LAST_PATIENCE)
        return response


def _is_chunked() -> bool:
    return "chunked" in request.headers.get("Transfer-Encoding", "").lower()


@contextmanager
def _patience(request: Request, seconds: float) -> Iterator[None]:
    """TimeoutError within, after so long without a byte."""
    sock: socket.socket | None = request.environ.get("gunicorn.socket")
    if sock is None:
        yield
        return
    sock.settimeout(seconds)
    try:
        yield
    finally:
        sock.settimeout(None)


def _read(request: Request, most: int) -> bytes:
    # Not request.get_data(): with a chunked body werkzeug cuts off silently where its limit is.
    stream = request.environ["wsgi.input"]
    body: bytes = stream.read(most + 1)
    if len(body) < min(request.content_length or 0, most + 1):
        raise ClientDisconnected("the body is shorter than its Content-Length says: the connection broke")
    if len(body) <= most:
        return body
    _skip(request, DISCARD, PATIENCE)
    raise RequestEntityTooLarge


def _skip(request: Request, most: int, seconds: float) -> None:
    stream, deadline = request.environ["wsgi.input"], time.monotonic() + seconds
    while most > 0 and time.monotonic() < deadline and (data := stream.read(CHUNK)):
        most -= len(data)
