"""What keys may use per minute: charged when a job is accepted, told in the head of each such answer, OpenAI's way.

A job is charged for what it may become, its prompt and all that it may generate, as there is no knowing when it will
run. Nothing is given back when it ends early.
"""

from __future__ import annotations

import math

import redis
from flask import Flask, Response, g

from gateway.auth import Caller
from gateway.errors import RateLimited
from wire.errors import ValidationError
from wire.job import Job
from wire.rates import Rates, Standing, Taken
from wire.request import RequestLimits

BYTES_PER_TOKEN = 4
"""Of a prompt that is too long to be tokenised here; nearly so for English."""


def cost(job: Job, limits: RequestLimits) -> int:
    """Tokens that the job may come to: its prompt's, once, and those of every text it may generate."""
    if job.ids is not None:
        prompt = len(job.ids)
    else:
        text = len((job.inputs or "").encode()) // BYTES_PER_TOKEN
        prompt = min(text, job.truncate or text, limits.max_input_tokens)
    return prompt + job.params.candidates * job.params.max_new_tokens


class Meter:
    """Takes what jobs cost off what their keys may use."""

    def __init__(self, client: redis.Redis) -> None:
        self._rates = Rates(client)

    def charge(self, who: Caller, tokens: int, open_ended: bool = False) -> None:
        """One request and so many tokens; RateLimited, or ValidationError if no wait would ever be long enough.

        `open_ended`: nobody said how many; then a minute's worth is the most. Of who has no limits nothing is asked.
        """
        if not who.limited:
            return
        if open_ended and who.tokens_per_minute:
            tokens = min(tokens, who.tokens_per_minute)
        if 0 < who.tokens_per_minute < tokens:
            raise ValidationError(
                f"this may take {tokens:,} tokens, prompt and `max_new_tokens` of each text together, and the API key "
                f"has {who.tokens_per_minute:,} per minute: lower `max_new_tokens`"
            )
        taken = self._rates.take(who.key, who.requests_per_minute, who.tokens_per_minute, tokens)
        g.rate_headers = headers(taken)
        if not taken.granted:
            seconds = max(1, math.ceil(taken.wait))
            raise RateLimited(f"{_sentence(taken, tokens)}; try again in {seconds} s", seconds)


def _sentence(taken: Taken, tokens: int) -> str:
    if taken.requests and taken.requests.wait:
        return f"the API key has used its {taken.requests.limit:,} requests per minute"
    assert taken.tokens is not None, "one of the two was refused"
    left, limit = taken.tokens.left, taken.tokens.limit
    return f"the API key has {left:,} of its {limit:,} tokens per minute left, and this may take {tokens:,}"


def headers(taken: Taken) -> dict[str, str]:
    """OpenAI's, for each limit that there is."""
    return _told("requests", taken.requests) | _told("tokens", taken.tokens)


def _told(name: str, standing: Standing | None) -> dict[str, str]:
    if standing is None:
        return {}
    return {
        f"x-ratelimit-limit-{name}": str(standing.limit),
        f"x-ratelimit-remaining-{name}": str(standing.left),
        f"x-ratelimit-reset-{name}": f"{standing.reset:g}s",
    }


def install(app: Flask) -> None:
    """Have what was charged told in the answer's head."""

    @app.after_request
    def tell(response: Response) -> Response:
        response.headers.update(g.get("rate_headers", {}))
        return response
