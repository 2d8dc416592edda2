"""Reads a request's body: declared as JSON, of bounded size, from a client that does not dawdle."""

from __future__ import annotations

import time
from http import HTTPStatus

from flask import Flask, Request, Response, request
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from gateway.errors import WrongContentType

PATIENCE = 30.0
"""Seconds without a byte after which a client is given up: it holds a thread meanwhile."""

DISCARD, DISCARD_FOR = 1 << 24, 10.0
"""Bytes, and seconds, of a body that nobody wants which are still read: see `discard`."""


def json_body(request: Request, most: int) -> bytes:
    """The body, at most `most` bytes; WrongContentType, RequestEntityTooLarge, RequestTimeout."""
    if not request.is_json:
        raise WrongContentType("send the body as JSON, with the header `Content-Type: application/json`")
    sock = request.environ.get("gunicorn.socket")
    if sock is not None:
        sock.settimeout(PATIENCE)
    try:
        return _read(request, most)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {PATIENCE:g} s") from None
    finally:
        if sock is not None:
            sock.settimeout(None)


def _read(request: Request, most: int) -> bytes:
    # Not request.get_data(): with a chunked body werkzeug cuts off silently where its limit is.
    stream = request.environ["wsgi.input"]
    body: bytes = stream.read(most + 1)
    if len(body) > most:
        raise RequestEntityTooLarge
    return body


def discard(request: Request) -> None:
    """Read on, in vain: who still sends when the connection is closed hears of a reset, and not why he was refused."""
    sock, stream = request.environ.get("gunicorn.socket"), request.environ["wsgi.input"]
    left, deadline = DISCARD, time.monotonic() + DISCARD_FOR
    try:
        while left > 0 and (seconds := deadline - time.monotonic()) > 0:
            if sock is not None:
                sock.settimeout(seconds)
            if not (data := stream.read(8192)):
                return
            left -= len(data)
    except Exception:  # it has left, dawdles, or its chunks make no sense: gunicorn closes the connection
        return
    finally:
        if sock is not None:
            sock.settimeout(None)


def install(app: Flask) -> None:
    """Have what is left of the bodies of refused requests discarded."""

    @app.after_request
    def finish(response: Response) -> Response:
        if response.status_code >= 400 and response.status_code != HTTPStatus.REQUEST_TIMEOUT:
            discard(request)
        return response
