"""What an error is in HTTP: one table, one body. Every request is answered, none is dropped."""

from __future__ import annotations

import logging

import kombu.exceptions
import msgspec
import redis.exceptions
from flask import Flask, Response, g, has_request_context
from werkzeug.exceptions import HTTPException

from wire import errors
from wire.chat import ChatTemplateError
from wire.request import MalformedRequest

log = logging.getLogger("sagrada.gateway")


class WrongContentType(Exception):
    """The body is not declared as JSON."""


class Unauthorized(Exception):
    """The request carries no key that is known here."""


class RateLimited(Exception):
    """The key has used what it may per minute; this would fit in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyStreams(Exception):
    """This process holds as many open streams as it may."""


class Unavailable(Exception):
    """The gateway cannot accept this now; nothing was accepted."""


STATUS: tuple[tuple[type[Exception], int, str, int], ...] = (
    (MalformedRequest, 400, "malformed_json", 0),
    (WrongContentType, 415, "unsupported_media_type", 0),
    (Unauthorized, 401, "unauthorized", 0),
    (errors.ValidationError, 422, "validation", 0),
    (ChatTemplateError, 422, "template_error", 0),
    (errors.IdempotencyConflict, 422, "idempotency_conflict", 0),
    (errors.JobNotFound, 404, "job_not_found", 0),
    (errors.ModelNotFound, 404, "model_not_found", 0),
    (errors.ModelUnavailable, 503, "model_unavailable", 5),
    (errors.QueueFull, 429, "overloaded", 5),
    (RateLimited, 429, "overloaded", 1),
    (TooManyStreams, 429, "overloaded", 1),
    (Unavailable, 503, "unavailable", 2),
)
"""Exception, HTTP status, `error_type`, Retry-After in seconds (0: none) unless it says so itself. First match wins."""

FAILED_STATUS = {"validation": 422, "overloaded": 429, "generation": 424}
"""HTTP status of a job that ended with this `error_type`; TGI's table. Any other: 500."""

PREFIX = {
    "validation": "Input validation error: ",
    "generation": "Request failed during generation: ",
    "template_error": "Template error: ",
}
"""What TGI writes before the sentence."""

EXPIRED = "the job's deadline passed (its ttl, or its start_ttl before it was begun)"

FULL = redis.exceptions.OutOfMemoryError
"""Redis has reached `maxmemory`: it takes no new work, and lets what it has come to its end."""

BACKEND_DOWN = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    FULL,
    kombu.exceptions.OperationalError,
)
"""Redis is away, too slow to answer, or cannot write now."""

_SENTENCES = {
    404: "there is nothing at this address",
    413: "the request's body is too large (MAX_BODY_BYTES)",
}


class Body(msgspec.Struct, frozen=True):
    """The one shape of an error, TGI's."""

    error: str
    """A sentence: what is wrong, and what to do."""
    error_type: str
    """Its kind, in a word."""


def body(error: str, error_type: str) -> bytes:
    """An error's body."""
    return msgspec.json.encode(Body(error, error_type))


def describe(error: Exception) -> tuple[int, str, str, int]:
    """(HTTP status, sentence, error_type, Retry-After seconds or 0) of any exception."""
    found = _describe(error)
    if has_request_context():
        g.refused = found[2]
    return found


def noted() -> str:
    """The `error_type` of what was described while this request was answered; empty: nothing was."""
    error_type: str = g.get("refused", "")
    return error_type


def _describe(error: Exception) -> tuple[int, str, str, int]:
    for kind, status, error_type, retry_after in STATUS:
        if isinstance(error, kind):
            seconds = getattr(error, "retry_after", 0) or retry_after
            return status, PREFIX.get(error_type, "") + str(error), error_type, seconds
    if isinstance(error, FULL):
        return 503, "Redis is full (maxmemory): no job is accepted until others have ended", "unavailable", 10
    if isinstance(error, BACKEND_DOWN):
        return 503, "Redis does not answer; try again in a moment", "unavailable", 2
    if isinstance(error, HTTPException):
        code = error.code or 500
        name = error.name.lower().replace(" ", "_")
        return code, _SENTENCES.get(code) or error.description or error.name, name, 0
    log.error("a request failed with an unexpected error", exc_info=error)
    return 500, "the gateway failed on this request; its log has the reason", "internal", 0


def answer(error: Exception) -> Response:
    """The response to a request that raised."""
    if isinstance(error, HTTPException) and error.code is not None and error.code < 400:
        return Response(error.get_body(), error.code, error.get_headers())
    status, sentence, error_type, retry_after = describe(error)
    response = Response(body(sentence, error_type), status, content_type="application/json")
    if retry_after:
        response.headers["Retry-After"] = str(retry_after)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPException):
        response.headers.extend(
            (name, value) for name, value in error.get_headers() if name.lower() in ("allow", "location")
        )
    return response


def install(app: Flask) -> None:
    """Make every error of every view the JSON above."""
    app.register_error_handler(Exception, answer)
