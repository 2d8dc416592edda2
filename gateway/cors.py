"""Pages of other origins may call, as with TGI, and unlike there with a key in the Authorization header.

No cookie means anything here, so a page can do no more than what it has a key for.
"""

from __future__ import annotations

from flask import Flask, Response, request

METHODS = "GET, POST, DELETE, OPTIONS"
HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, *"
"""What requests may carry. `*` stands for all but Authorization: OpenAI's own client sends a dozen of its own."""
KEPT = 7200
"""Seconds for which a browser may remember the answer: as many as any does."""


class Cors:
    """Answers preflights, and says in every head who may read the answer."""

    def __init__(self, allowed: str) -> None:
        """`allowed`: origins with commas between them, or `*` for any."""
        self._origins = frozenset(origin.strip() for origin in allowed.split(","))

    def install(self, app: Flask) -> None:
        """Before all else: a browser sends no key with a preflight."""
        app.before_request(self._preflight)
        app.after_request(self._allow)

    def _preflight(self) -> Response | None:
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = METHODS
        response.headers["Access-Control-Allow-Headers"] = HEADERS
        response.headers["Access-Control-Max-Age"] = str(KEPT)
        return response

    def _allow(self, response: Response) -> Response:
        origin = request.headers.get("Origin", "")
        if "*" in self._origins:
            response.headers["Access-Control-Allow-Origin"] = "*"
        else:
            response.headers.add("Vary", "Origin")
            if origin not in self._origins:
                return response
            response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "*"
        return response
