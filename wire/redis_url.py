"""The way to Redis that a URL names: to a server, or to whichever server is the master by the word of its sentinels.

redis://, rediss:// and unix:// are redis-py's. Sentinels are named as in Celery, and with them all that is needed:

    sentinel://[user:password@]host:port;sentinel://host:port;…/db?master_name=…

User, password and database are the servers', and may stand in any of the URLs, as may the parameters: `master_name`
(as the sentinels know it), `sentinel_username` and `sentinel_password` (for the sentinels themselves), `ssl_…` (as
redis-py's: the servers speak TLS), `sentinel_ssl=true` (so do the sentinels, with the same certificates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.connection import URL_QUERY_ARGUMENT_PARSERS
from redis.exceptions import ConnectionError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

SENTINEL = "sentinel://"
SENTINEL_PORT = 26379
SENTINEL_TIMEOUT = 1.0
"""Seconds that one sentinel gets to answer before the next is asked."""
FORM = "sentinel://host:26379;sentinel://host:26379/0?master_name=…"

_PLAIN = ("redis", "rediss", "unix")
_OWN = ("master_name", "sentinel_username", "sentinel_password", "sentinel_ssl")
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelUrl:
    """What a sentinel URL says."""

    nodes: tuple[tuple[str, int], ...]
    """Host and port of each sentinel."""
    master_name: str
    db: int
    login: Mapping[str, str] = field(repr=False)
    """The servers' `username` and `password`, as far as they are given."""
    tls: Mapping[str, Any]
    """redis-py's `ssl_…` options; empty: the servers speak no TLS."""
    asking: Mapping[str, Any] = field(repr=False)
    """redis-py's options for a connection to a sentinel: login, TLS, timeouts."""


def check(url: str) -> str:
    """The URL itself, if it can be used; ValueError says what is wrong with it, and quotes no secret."""
    if is_sentinel(url):
        parse(url)
        return url
    parts = urlsplit(url)
    if parts.scheme not in _PLAIN:
        raise ValueError(
            f"a Redis URL starts with redis://, rediss://, unix:// or sentinel://, not {parts.scheme}://"
        )
    if parts.scheme != "unix":
        _port(parts, 0)
        _database(parts)
    return url


def public(url: str) -> str:
    """The URL without user, password and parameters, to be shown to people."""
    if is_sentinel(url):
        said = parse(url)
        nodes = ";".join(SENTINEL + address(*node) for node in said.nodes)
        return f"{nodes}/{said.db}?master_name={said.master_name}"
    scheme, _, rest = url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def is_sentinel(url: str) -> bool:
    """Whether the URL names sentinels instead of a server."""
    return url.startswith(SENTINEL)


def client(url: str, *, blocking: bool = False, **options: Any) -> Redis:
    """A client of the server that the URL names; `options` are redis-py's. Connects when it is used."""
    return Redis.from_pool(pool(url, blocking=blocking, **options))


def pool(url: str, *, blocking: bool = False, **options: Any) -> ConnectionPool:
    """Its pool. `blocking`: who finds all connections taken waits for one, `timeout` seconds."""
    if is_sentinel(url):
        return sentinels(url).pool(blocking=blocking, **options)
    made: ConnectionPool = (BlockingConnectionPool if blocking else ConnectionPool).from_url(url, **options)
    made.connection_class = leaving(made.connection_class)
    return made


def ask_for_master(client: Redis) -> tuple[str, int] | None:
    """Who the sentinels of this client say is the master now; None where there are none, or none that knows.

    Connections to another server are closed, at once or after use. One that was replaced while it lived takes itself
    for the master until it is told otherwise: for ten seconds all that is still written to it is lost.
    """
    known = client.connection_pool
    if not isinstance(known, SentinelConnectionPool):
        return None
    try:
        master: tuple[str, int] = known.get_master_address()
        return master
    except MasterNotFoundError:
        return None


# Sentinels


def parse(url: str) -> SentinelUrl:
    """A sentinel URL's parts; ValueError says what is wrong with it."""
    said: dict[str, str] = {}
    nodes: list[tuple[str, int]] = []
    for part in url.split(";"):
        parts = urlsplit(part)
        if parts.scheme != "sentinel" or not parts.hostname or "," in parts.hostname:
            raise ValueError(f"every part of a sentinel URL is a URL with a host: {FORM}")
        nodes.append((unquote(parts.hostname), _port(parts, SENTINEL_PORT)))
        for name, value in _statements(parts):
            if said.setdefault(name, value) != value:
                raise ValueError(
                    f"the parts of a sentinel URL say two different things of `{name}`: say it once"
                )
    if not said.get("master_name"):
        raise ValueError(f"a sentinel URL ends with the master's name, as the sentinels know it: {FORM}")
    tls = _tls(said)
    return SentinelUrl(
        nodes=tuple(nodes),
        master_name=said["master_name"],
        db=int(said.get("db", "0")),
        login=_login(said, ""),
        tls=tls,
        asking={**_login(said, "sentinel_"), **_sentinel_tls(said, tls)},
    )


def _statements(parts: SplitResult) -> list[tuple[str, str]]:
    """What one of the URLs says of the master and of how to speak to it."""
    said = [(name, value) for name, value in parse_qsl(parts.query) if value]
    for name, _ in said:
        if name not in _OWN and not name.startswith("ssl_"):
            raise ValueError(f"a sentinel URL knows {', '.join(_OWN)} and ssl_…, but no `{name}`")
    said += [(name, unquote(value)) for name in ("username", "password") if (value := getattr(parts, name))]
    if (db := _database(parts)) is not None:
        said.append(("db", str(db)))
    return said


def _login(said: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name: said[prefix + name] for name in ("username", "password") if prefix + name in said}


def _tls(said: Mapping[str, str]) -> dict[str, Any]:
    readers: Mapping[str, Any] = URL_QUERY_ARGUMENT_PARSERS
    options: dict[str, Any] = {}
    for name in (name for name in said if name.startswith("ssl_")):
        try:
            options[name] = readers.get(name, str)(said[name])
        except (TypeError, ValueError):
            raise ValueError(f"`{name}` has a value that redis-py does not know") from None
    return options


def _sentinel_tls(said: Mapping[str, str], tls: Mapping[str, Any]) -> dict[str, Any]:
    wanted = _FLAGS.get(said.get("sentinel_ssl", "false"))
    if wanted is None:
        raise ValueError("`sentinel_ssl` is true or false")
    return {"ssl": True, **tls} if wanted else {}


def _port(parts: SplitResult, default: int) -> int:
    try:
        return parts.port or default
    except ValueError:  # its text may be a piece of a password
        raise ValueError(
            "the port is no number from 1 to 65535; in a password write / ? # @ : ; as %2F %3F %23 %40 %3A %3B"
        ) from None


def _database(parts: SplitResult) -> int | None:
    text = parts.path.strip("/")
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError("a Redis URL's path is the number of a database, as in redis://host:6379/0")
    return int(text) if text else None


def address(host: str, port: int) -> str:
    """As it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@cache
def sentinels(url: str) -> Sentinels:
    """The same for all of a process: so each connection asks first who answered last."""
    return Sentinels(parse(url))


class Sentinels:
    """Who knows the master: redis-py's pools ask here before every connection, so that a failover is followed.

    redis-py's own Sentinel keeps connections to the sentinels and a list that threads spoil when they reconnect at
    once; this one asks over a new connection each time.
    """

    def __init__(self, url: SentinelUrl) -> None:
        self.url = url
        self._nodes = url.nodes
        self._options = asking(url)

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the master; MasterNotFoundError says what each sentinel said."""
        order, refusals = self._nodes, []
        for node in order:
            try:
                master = self._ask(*node, service_name)
            except RedisError as error:
                refusals.append(f"{address(*node)}: {error}")
                continue
            self._nodes = (node, *(other for other in order if other != node))
            return master
        raise MasterNotFoundError(f"no sentinel names a master {service_name!r} now ({'; '.join(refusals)})")

    def _ask(self, host: str, port: int, name: str) -> tuple[str, int]:
        with Redis(host=host, port=port, **self._options) as node:
            masters: Any = node.sentinel_masters()
        state = masters.get(name)
        if state is None:
            raise MasterNotFoundError(f"it knows of {', '.join(masters) or 'no master'}")
        if not state["is_master"] or state["is_sdown"] or state["is_odown"]:
            raise MasterNotFoundError("the master is down")
        return str(state["ip"]), int(state["port"])

    def pool(self, *, blocking: bool = False, **options: Any) -> ConnectionPool:
        """Connections to the master of the time when each is made; `options` are redis-py's."""
        said = self.url
        plain = SentinelManagedSSLConnection if said.tls else SentinelManagedConnection
        kind: Any = _BlockingSentinelPool if blocking else SentinelConnectionPool
        ours = {"connection_class": leaving(plain), "db": said.db, **said.login, **said.tls}
        made: ConnectionPool = kind(said.master_name, self, **{**ours, **options})
        return made


def asking(url: SentinelUrl) -> dict[str, Any]:
    """redis-py's options for a connection to a sentinel: nobody waits for one that does not answer."""
    patience = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
    return {**patience, "retry": Retry(NoBackoff(), 0), **url.asking}


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """The master's connections, at most so many: who finds all taken waits."""


# Servers that cannot write


@cache
def leaving(kind: type[Any]) -> type[Any]:
    """A connection class like `kind` that leaves a server which cannot write: the next connect finds who can."""
    ours = (_Leaving, _Asking) if issubclass(kind, SentinelManagedConnection) else (_Leaving,)
    return type(kind.__name__, (*ours, kind), {})


class _Leaving:
    """Of a connection. A master that was demoted, or cut off from its replicas, may keep connections open for long."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """As redis-py's; ConnectionError where the server takes no writes."""
        connection: Any = super()
        try:
            return connection.read_response(*args, **kwargs)
        except ResponseError as error:
            if not isinstance(error, ReadOnlyError) and not str(error).startswith("NOREPLICAS"):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise ConnectionError(f"this Redis takes no writes now: {error}") from error


class _Asking:
    """Of a connection to a master. redis-py's asks the sentinels in connect(), but a command that finds it closed, as
    every retry does, connects it again to where it was: a master that hung would take what its successor should have.
    """

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """As redis-py's, to the master of now."""
        connection: Any = super()
        if not connection.is_connected:
            connection.connect()
        connection.send_packed_command(*args, **kwargs)
