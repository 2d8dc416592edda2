"""OpenAI's errors, out of the one table of gateway/errors.py."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from flask import Response

from gateway import errors, generation
from gateway.openai.shapes import Error, ErrorBody
from gateway.strict import Quirks
from wire.errors import TooLong, ValidationError
from wire.events import Terminal


class Invalid(ValidationError):
    """A request that cannot be served as it stands, the parameter that is to blame, and OpenAI's code for why."""

    def __init__(self, message: str, param: str | None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code


TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's `type` by HTTP status; any other is server_error from 424 on, invalid_request_error below."""

CODES = {
    "validation": None,
    "malformed_json": None,
    "unauthorized": "invalid_api_key",
}
"""OpenAI's `code` for our error types; any other is its own."""

MEANINGS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), sentence, code)
    for pattern, sentence, code in (
        (
            "Object missing required field `(.*)`",
            "Missing required parameter: '{}'.",
            "missing_required_parameter",
        ),
        ("Expected `int` >= ", "Invalid '{}': integer below minimum value. {}.", "integer_below_min_value"),
        ("Expected `int` <= ", "Invalid '{}': integer above maximum value. {}.", "integer_above_max_value"),
        ("Expected `float` >= ", "Invalid '{}': decimal below minimum value. {}.", "decimal_below_min_value"),
        ("Expected `float` <= ", "Invalid '{}': decimal above maximum value. {}.", "decimal_above_max_value"),
        ("Expected `array` of length >= ", "Invalid '{}': array too short. {}.", "empty_array"),
        ("Expected `array` of length <= ", "Invalid '{}': array too long. {}.", "array_above_max_length"),
        ("", "Invalid type for '{}': {}.", "invalid_type"),
    )
)
"""How msgspec's sentence begins, OpenAI's for (parameter, msgspec's), its code."""

JSON_WORDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}

CHAT_NAMES = {
    "inputs": "messages",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "top_n_tokens": "top_logprobs",
    "truncate": "truncate_prompt_tokens",
    "grammar": "response_format",
}
COMPLETION_NAMES = CHAT_NAMES | {"inputs": "prompt", "top_n_tokens": "logprobs"}
"""Our names of parameters → OpenAI's."""


def of_msgspec(error: msgspec.ValidationError) -> Invalid:
    """A value of the wrong type or beyond its bounds."""
    what, _, where = str(error).partition(" - at `")
    path = where.rstrip("`").removeprefix("key in ").removeprefix("$").removeprefix(".")
    pattern, sentence, code = next(row for row in MEANINGS if row[0].match(what))
    found = pattern.match(what)
    if found and found.groups():
        path = f"{path}.{found[1]}" if path else found[1]
    said = re.sub(r"`(\w+)( \| null)?`", lambda word: JSON_WORDS.get(word[1], word[1]), what)
    said = said[0].lower() + said[1:] if code == "invalid_type" else said
    return Invalid(sentence.format(path or "body", said), path or None, code)


def of_wire(error: ValidationError, names: Mapping[str, str]) -> Invalid:
    """A refusal in TGI's words, with OpenAI's names in them."""
    if isinstance(error, Invalid):
        return error
    prompt = names["inputs"]
    if isinstance(error, TooLong) and error.prompt_tokens + error.new_tokens > error.most:
        return Invalid(_too_long(error, prompt), prompt, "context_length_exceeded")
    sentence = re.sub(r"`(\w+)`", lambda name: f"`{names.get(name[1], name[1])}`", str(error))
    sentence = sentence.replace("grammar is not valid", f"Invalid `{names['grammar']}`")
    named = re.search(r"`(\w+)`", sentence)
    code = "context_length_exceeded" if isinstance(error, TooLong) else "invalid_value"
    return Invalid(sentence, named[1] if named else None, code)


def _too_long(error: TooLong, prompt: str) -> str:
    """OpenAI's sentence."""
    most = f"This model's maximum context length is {error.most} tokens. However, "
    if error.prompt_tokens >= error.most:
        return (
            f"{most}your {prompt} resulted in {error.prompt_tokens} tokens. "
            f"Please reduce the length of the {prompt}."
        )
    total = error.prompt_tokens + error.new_tokens
    return (
        f"{most}you requested {total} tokens ({error.prompt_tokens} in the {prompt}, {error.new_tokens} in the "
        f"completion). Please reduce the length of the {prompt} or completion."
    )


def status_of(status: int) -> int:
    """What OpenAI answers where TGI says so: what cannot be processed is a bad request."""
    return 400 if status == 422 else status


def error_of(status: int, sentence: str, kind: str, cause: Exception | None = None) -> Error:
    """The error object; `kind` is our error_type, the parameter and the code may be the cause's own."""
    status = status_of(status)
    kinds = "server_error" if status >= 424 else "invalid_request_error"
    param, code = (cause.param, cause.code) if isinstance(cause, Invalid) else (None, CODES.get(kind, kind))
    if kind == "model_not_found":
        param = "model"
    if isinstance(cause, errors.RateLimited):
        code = "rate_limit_exceeded"
    return Error(
        message=sentence.removeprefix(errors.PREFIX["validation"]),
        type=TYPES.get(status, kinds),
        param=param,
        code=code,
    )


def failure(end: Terminal, quirks: Quirks) -> tuple[int, bytes]:
    """(HTTP status, body) for a job that ended without success."""
    status, body = generation.failure(end)
    if quirks.errors:
        return status, body
    told = msgspec.json.decode(body, type=errors.Body)
    error = error_of(status, told.error, told.error_type)
    return status_of(status), msgspec.json.encode(ErrorBody(error=error))


def streamed_failure(end: Terminal, quirks: Quirks) -> bytes:
    """The same inside a stream, whose status was 200: it says which it would have been."""
    status, body = generation.failure(end, stream=True)
    told = msgspec.json.decode(body, type=errors.Body)
    if quirks.errors:
        return msgspec.json.encode({"error": {"message": told.error, "http_status_code": 422}})
    error = error_of(status, told.error, told.error_type)
    said = msgspec.structs.replace(error, http_status_code=status_of(status))
    return msgspec.json.encode(ErrorBody(error=said))


def answer(error: Exception) -> Response:
    """The response to a request that raised."""
    response = errors.answer(error)
    if response.status_code < 400:
        return response
    status, sentence, kind, _ = errors.describe(error)
    response.set_data(msgspec.json.encode(ErrorBody(error=error_of(status, sentence, kind, error))))
    response.status_code = status_of(status)
    return response
