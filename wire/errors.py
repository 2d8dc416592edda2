"""Errors that cross rooms. The message is for the person who reads it: what is wrong and what to do."""

from __future__ import annotations


class SagradaError(Exception):
    """Anything that Sagrada raises on purpose."""


class ValidationError(SagradaError):
    """A request that cannot be served as it stands; the message names the parameter and its limit."""


class TooLong(ValidationError):
    """The prompt, or the prompt and what is to follow it, have more tokens than the model takes."""

    def __init__(self, message: str, prompt_tokens: int, new_tokens: int, most: int) -> None:
        """Tokens; `most`: of both together."""
        super().__init__(message)
        self.prompt_tokens, self.new_tokens, self.most = prompt_tokens, new_tokens, most


class NewerWireVersion(SagradaError):
    """A message written by a newer version of Sagrada: leave it for a newer process."""


class IdempotencyConflict(SagradaError):
    """The Idempotency-Key was used before with another body."""


class JobNotFound(SagradaError):
    """No such job: the id is wrong, or its result has expired."""


class JobFailed(SagradaError):
    """The job ended `failed`; the message says why."""


class JobExpired(SagradaError):
    """The job's deadline passed: `ttl`, or `start_ttl` before it was begun."""


class ModelNotFound(SagradaError):
    """No worker serves a model of that name."""


class ModelUnavailable(SagradaError):
    """The model is known but not served now: its worker is loading, or failed to load."""


class QueueFull(SagradaError):
    """The waiting room is full; try again in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LeaseLost(SagradaError):
    """This boot's lease is gone: its messages belong to somebody else now."""
