"""API keys: who may use the gateway, for what and how much. One Redis hash, key id → one msgpack map.

A key reads `sk-<id>-<secret>`. The id is no secret: it finds the record, and logs and lists may show it. Of the secret
only a digest is kept. A plain SHA-256, since the secret is 192 random bits: nobody tries them all, however fast a try
is, while the slow hashes that passwords need would cost every request their time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from wire.errors import SagradaError
from wire.keys import API_KEYS
from wire.redis_url import client, public
from wire.scripts import EVEN_IF_FULL, load

MOST_KEYS = 10_000
LONGEST_NAME = 128
"""Characters of a key's, a tenant's or a model's name."""
MOST_MODELS = 100
MOST_PER_MINUTE = 10**9

_FORM = re.compile(r"sk-([0-9a-f]{12})-([0-9a-f]{48})")
_PUT = EVEN_IF_FULL + load("apikeys_put")


class ApiKeyError(SagradaError):
    """A key cannot be added or found as asked; the message says why."""


class StoreAway(SagradaError):
    """Redis, where the keys are, does not answer or refuses."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key."""

    name: str
    """Whose or what for, to tell it from others."""
    tenant: str
    """Whose jobs it sees: keys of one tenant share them. Empty: those of plain producers and of API_KEY."""
    digest: bytes
    """SHA-256 of the secret."""
    models: tuple[str, ...] | None = None
    """The served models it may use, the others are unknown to it; None: all."""
    requests_per_minute: int = 0
    """Generations that it may ask for; 0: any number."""
    tokens_per_minute: int = 0
    """Tokens, of prompts and to be generated, that it may ask for; 0: any number."""
    created: float = 0.0
    """Unix time, as the next."""
    revoked: float | None = None
    """None: it is good."""

    def opens_to(self, secret: str) -> bool:
        """Whether this is its secret and it is good; in the same time wherever the two differ."""
        return hmac.compare_digest(self.digest, _digest(secret)) and self.revoked is None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def split(key: str) -> tuple[str, str] | None:
    """(id, secret) of what looks like a key."""
    match = _FORM.fullmatch(key)
    return (match[1], match[2]) if match else None


class ApiKeys:
    """The store. Raises RedisError."""

    def __init__(self, redis: Redis) -> None:
        """`redis` must return bytes."""
        self._redis: Any = redis
        self._put = self._redis.register_script(_PUT)

    def find(self, key: str) -> tuple[str, ApiKey] | None:
        """(id, record) of a good key."""
        if (parts := split(key)) is None:
            return None
        key_id, secret = parts
        record = self.get(key_id)
        return (key_id, record) if record is not None and record.opens_to(secret) else None

    def get(self, key_id: str) -> ApiKey | None:
        """The record of that id, good or revoked."""
        found = self._redis.hget(API_KEYS, key_id)
        return None if found is None else msgspec.msgpack.decode(found, type=ApiKey)

    def all(self) -> dict[str, ApiKey]:
        """Every record by its key's id, the oldest first."""
        found: Mapping[bytes, bytes] = self._redis.hgetall(API_KEYS)
        records = {id.decode(): msgspec.msgpack.decode(data, type=ApiKey) for id, data in found.items()}
        return dict(sorted(records.items(), key=lambda item: (item[1].created, item[0])))

    def add(
        self,
        name: str,
        *,
        tenant: str | None = None,
        models: tuple[str, ...] | None = None,
        requests_per_minute: int = 0,
        tokens_per_minute: int = 0,
    ) -> tuple[str, str]:
        """(id, the key itself, which is nowhere else) of a new key; ApiKeyError.

        Without a tenant it is the key's name: one that replaces another of the same name goes on with its jobs.
        """
        tenant = name if tenant is None else tenant
        _check(name, tenant, models, (requests_per_minute, tokens_per_minute))
        key_id, secret = secrets.token_hex(6), secrets.token_hex(24)
        record = ApiKey(
            name=name,
            tenant=tenant,
            digest=_digest(secret),
            models=models,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            created=round(time.time(), 3),
        )
        if not self._write(key_id, record) and not (self._forget_revoked() and self._write(key_id, record)):
            raise ApiKeyError(f"there are {MOST_KEYS:,} keys already: revoke some that are not needed")
        return key_id, f"sk-{key_id}-{secret}"

    def revoke(self, key_id: str) -> ApiKey:
        """Make the key good for nothing from now on; its record. ApiKeyError if there is none."""
        record = self.get(key_id)
        if record is None:
            raise ApiKeyError(f"there is no key {key_id[:LONGEST_NAME]!r}: `sagrada keys list` shows all")
        if record.revoked is None:
            record = msgspec.structs.replace(record, revoked=round(time.time(), 3))
            self._write(key_id, record)
        return record

    def _write(self, key_id: str, record: ApiKey) -> bool:
        return bool(self._put(keys=[API_KEYS], args=[key_id, msgspec.msgpack.encode(record), MOST_KEYS]))

    def _forget_revoked(self) -> int:
        """Make room."""
        ids = [id for id, record in self.all().items() if record.revoked is not None]
        return self._redis.hdel(API_KEYS, *ids) if ids else 0


def _check(name: str, tenant: str, models: tuple[str, ...] | None, rates: tuple[int, int]) -> None:
    for what, text in (("name", name), *(("model's name", model) for model in models or ())):
        _require(0 < len(text) <= LONGEST_NAME, f"a {what} has 1 to {LONGEST_NAME} characters")
    _require(len(tenant) <= LONGEST_NAME, f"a tenant's name has at most {LONGEST_NAME} characters")
    _require(
        all(text.isprintable() for text in (name, tenant, *(models or ()))), "names are printable characters"
    )
    _require(models is None or 0 < len(models) <= MOST_MODELS, f"name 1 to {MOST_MODELS} models, or none")
    _require(all(0 <= rate <= MOST_PER_MINUTE for rate in rates), "a rate is a number of at least 0")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ApiKeyError(otherwise)


@contextmanager
def opened(url: str) -> Iterator[ApiKeys]:
    """The store in the Redis at `url`, for a command; its refusals as StoreAway."""
    try:
        with client(url, socket_timeout=5, socket_connect_timeout=5) as redis:
            yield ApiKeys(redis)
    except RedisError as error:
        raise StoreAway(f"Redis at {public(url)} does not serve: {error}") from error
