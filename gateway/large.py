"""A large answer keeps no thread waiting for its reader."""

from __future__ import annotations

from flask import Response, request

from gateway.detach import respond
from gateway.service import Gateway

LARGE = 1 << 15
"""Bytes of an answer that the kernel may not take at once."""


def let_go(gateway: Gateway, response: Response) -> Response:
    """The same response; where it is large, whoever flushes slow sockets sends it."""
    if request.method == "HEAD" or (response.content_length or 0) <= LARGE:
        return response
    headers = {name: value for name, value in response.headers if name != "Content-Length"}
    status, body = response.status_code, response.get_data()
    return respond(gateway.poller, request.environ, lambda exchange: exchange.answer(status, headers, body))
