"""Celery's result backend, told of the same Redis as the rest."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from wire.redis_url import address, asking, is_sentinel, parse
from wire.transport import broker_url


def backend_settings(redis_url: str) -> dict[str, Any]:
    """Celery's settings for the same Redis as a result backend."""
    if is_sentinel(redis_url):
        return _sentinel_backend(redis_url)
    parts = urlsplit(redis_url)
    url = redis_url
    if parts.scheme == "unix":
        url = broker_url(redis_url).replace("sagrada+socket://", "redis+socket://", 1)
    elif parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        # Celery wants to be told to check certificates.
        query = "&".join(filter(None, (parts.query, "ssl_cert_reqs=required")))
        url = urlunsplit(parts._replace(query=query))
    return {"result_backend": url}


def _sentinel_backend(redis_url: str) -> dict[str, Any]:
    said = parse(redis_url)
    login = ":".join(quote(said.login.get(name, ""), safe="") for name in ("username", "password"))
    # Celery takes login and database from the first, and is not sure to hide what stands in the others.
    first, *others = [f"sentinel://{address(*node)}/{said.db}" for node in said.nodes]
    settings: dict[str, Any] = {
        "result_backend": ";".join([first.replace("//", f"//{login}@", 1) if said.login else first, *others]),
        "result_backend_transport_options": {
            "master_name": said.master_name,
            "sentinel_kwargs": asking(said),
        },
    }
    if said.tls:
        settings["redis_backend_use_ssl"] = {"ssl_cert_reqs": "required", **said.tls}
    return settings
