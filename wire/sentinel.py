"""kombu transport `sagrada-sentinel://`: ours, to the master that the sentinels name when a connection is made."""

# mypy: allow-untyped-calls
# kombu is typed in part only.

from __future__ import annotations

from typing import Any

from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from wire.redis_url import leaving, sentinels
from wire.transport import Channel, Transport


class SentinelChannel(Channel):
    """A channel to the master that the sentinels name."""

    connection_class = leaving(SentinelManagedConnection)
    connection_class_ssl = leaving(SentinelManagedSSLConnection)

    def _get_pool(self, asynchronous: bool = False) -> Any:
        """As kombu's SentinelChannel, with the sentinels that the rest of the process asks."""
        params = self._connparams(asynchronous=asynchronous)
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=params["db"])
        # kombu's own idea of an address; the URL has the servers' login.
        for name in ("host", "port", "username", "password"):
            del params[name]
        return self.connection.sentinels.pool(**params)


class SentinelTransport(Transport):
    """sagrada-sentinel://, whose password is the whole Redis URL."""

    Channel = SentinelChannel

    def __init__(self, client: Any, **kwargs: Any) -> None:
        self.sentinels = sentinels(client.password or "")
        client.virtual_host, client.ssl = str(self.sentinels.url.db), dict(self.sentinels.url.tls) or False
        super().__init__(client, **kwargs)
