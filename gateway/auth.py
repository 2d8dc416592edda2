"""Who asks: the key of a request, whose jobs it sees, and what it may use.

Every route is behind a key but for those in OPEN, so that a new one is closed until somebody has thought about it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from flask import Flask, g, request

from gateway.config import Config
from gateway.errors import Unauthorized
from wire.apikeys import ApiKey, ApiKeys

OPEN = frozenset(
    {
        "/",
        "/health",
        "/ping",
        "/livez",
        "/readyz",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/api-doc/openapi.json",
    }
)
"""Routes that can be read without a key, by their rules. Only read: POST / is a generation."""

SELECTIVE = frozenset({"/info", "/v1/models", "/v1/models/<path:name>"})
"""Routes that need no key, as with TGI, but show only what it may use if there is one."""

ASSETS = "/docs/"
"""What the rules of the documentation's own files begin with."""

MISSING = "this gateway asks for an API key: send the header `Authorization: Bearer …`"
WRONG = "the API key is not known here, or it was revoked"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may do."""

    tenant: str = ""
    """Whose jobs are theirs."""
    models: frozenset[str] | None = None
    """The served models that there are for them; None: all."""
    key: str = ""
    """The id of their key; empty: API_KEY, or nobody was asked for one."""
    requests_per_minute: int = 0
    """0: any number, as the next."""
    tokens_per_minute: int = 0

    def may_use(self, model: str) -> bool:
        """Whether there is this model for them."""
        return self.models is None or model in self.models

    @property
    def limited(self) -> bool:
        """Whether what they use is counted."""
        return self.requests_per_minute > 0 or self.tokens_per_minute > 0


ANYBODY = Caller()
"""Where no keys are asked for, and whoever has API_KEY."""


def caller() -> Caller:
    """Who sent the request that is being answered."""
    found: Caller = g.caller
    return found


def is_open(method: str, rule: str) -> bool:
    """Whether this needs no key."""
    reads = method in ("GET", "HEAD") and (rule in OPEN or rule in SELECTIVE or rule.startswith(ASSETS))
    return reads or method == "OPTIONS"


class Gate:
    """Knows keys. A key is looked up for each request, so that one that was revoked is refused from then on."""

    def __init__(self, config: Config, keys: ApiKeys) -> None:
        self._closed = config.auth == "keys" or bool(config.api_key)
        self._one = config.api_key.encode()
        self._keys = keys

    def install(self, app: Flask) -> None:
        """Have every request of the application come through here."""
        app.before_request(self._enter)

    def _enter(self) -> None:
        g.caller = ANYBODY
        rule = request.url_rule.rule if request.url_rule else None
        if not self._closed or rule is None:  # there is nothing behind an address without a rule
            return
        given = bearer(request.headers.get("Authorization", ""))
        if not is_open(request.method, rule) or (given and rule in SELECTIVE):
            g.caller = self.known(given)

    def known(self, key: str) -> Caller:
        """Whose key it is; Unauthorized."""
        if not key:
            raise Unauthorized(MISSING)
        if self._one and hmac.compare_digest(self._one, key.encode()):
            return ANYBODY
        if (found := self._keys.find(key)) is None:
            raise Unauthorized(WRONG)
        return of(*found)


def bearer(header: str) -> str:
    """The token of an Authorization header; empty where there is none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def of(key_id: str, key: ApiKey) -> Caller:
    """Who comes with this key."""
    return Caller(
        tenant=key.tenant,
        models=None if key.models is None else frozenset(key.models),
        key=key_id,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
    )
