"""Reads a request's body: declared as JSON, of bounded size, from a client that does not dawdle."""

from __future__ import annotations

from flask import Request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge, RequestTimeout

from gateway.errors import WrongContentType

PATIENCE = 30.0
"""Seconds without a byte after which a client is given up: it holds a thread meanwhile."""

DISCARD = 1 << 24
"""Bytes of a body that is too large which are still read, so that the client hears why instead of a reset."""


def json_body(request: Request, most: int) -> bytes:
    """The body, at most `most` bytes; WrongContentType, RequestEntityTooLarge, RequestTimeout, ClientDisconnected."""
    sock = request.environ.get("gunicorn.socket")
    if sock is not None:
        sock.settimeout(PATIENCE)
    try:
        body = _read(request, most)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {PATIENCE:g} s") from None
    finally:
        if sock is not None:
            sock.settimeout(None)
    if not request.is_json:  # read first: what is left unread ends a connection that the client means to keep
        raise WrongContentType("send the body as JSON, with the header `Content-Type: application/json`")
    return body


def _read(request: Request, most: int) -> bytes:
    # Not request.get_data(): with a chunked body werkzeug cuts off silently where its limit is.
    stream = request.environ["wsgi.input"]
    body: bytes = stream.read(most + 1)
    if len(body) < min(request.content_length or 0, most + 1):
        raise ClientDisconnected("the body is shorter than its Content-Length says: the connection broke")
    if len(body) <= most:
        return body
    left = DISCARD
    while left > 0 and (data := stream.read(65536)):
        left -= len(data)
    raise RequestEntityTooLarge
