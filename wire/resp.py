"""Redis by hand-packed pipelines: one write per batch, replies parsed in C. For the two hot paths only."""

from __future__ import annotations

import select
import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import hiredis
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from wire.redis_url import pool

Arg: TypeAlias = bytes | str | int | float
Command: TypeAlias = tuple[Arg, ...]
"""A Redis command as its words: `redis.execute_command(*command)` and RespConnection both take it."""
Reply: TypeAlias = Any
"""bytes, int, None, a list of replies, or a ResponseError (returned, not raised)."""

CHUNK = 1 << 18
_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_REDIS_PY_ONLY = ("maint_", "orig_", "himport_", "event_", "oss_")
"""Prefixes of a pool's options that concern RESP3 and redis-py's own bookkeeping."""
_ERRORS: dict[str, type[ResponseError] | type[ConnectionError]] = {
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "LOADING": BusyLoadingError,
    "OOM": OutOfMemoryError,
}


def pack(*args: Arg) -> bytes:
    """One command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(cast(Any, args))
    return packed


def _error(message: str) -> Exception:
    return _ERRORS.get(message.partition(" ")[0], ResponseError)(message)


class RespConnection:
    """One raw connection. After any ConnectionError it is closed: make a new one. Not thread-safe."""

    def __init__(self, source: str | Redis, *, timeout: float = 5.0) -> None:
        """Connect as redis-py does for this URL or client: TLS, ACL user, database, unix socket, the present master.

        `timeout` (seconds) bounds every wait.
        """
        known = pool(source) if isinstance(source, str) else source.connection_pool
        options = {k: v for k, v in known.connection_kwargs.items() if not k.startswith(_REDIS_PY_ONLY)}
        options |= {"protocol": 2, "decode_responses": False, "retry": Retry(NoBackoff(), 0)}
        options |= {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        if "path" not in options:
            options["socket_keepalive"] = True
        self._connection = cast(Any, known.connection_class(**options))
        # redis-py shakes hands; from here on the socket is ours and non-blocking.
        try:
            self._connection.connect()
        except TimeoutError as error:
            raise ConnectionError(str(error)) from error
        self._sock = self._connection._sock
        self._sock.setblocking(False)
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=_error)
        self._timeout = timeout
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)

    def fileno(self) -> int:
        """For a selector; readable when `drain` would find something."""
        return int(self._sock.fileno())

    def ready(self, seconds: float) -> bool:
        """Wait until there may be something to drain; False if there was nothing for so long."""
        self._poll.modify(self._sock, select.POLLIN)
        return bool(self._poll.poll(seconds * 1000))

    def send(self, commands: Iterable[Command]) -> None:
        """Write all commands at once. Their replies are to be read."""
        data = memoryview(b"".join([pack(*command) for command in commands]))
        deadline = time.monotonic() + self._timeout
        while data:
            try:
                data = data[self._sock.send(data) :]
            except _BLOCKED as blocked:
                self._wait(select.POLLIN if _wants_read(blocked) else select.POLLOUT, deadline)
            except OSError as error:
                raise self._broken(error) from error

    def read(self, count: int) -> list[Reply]:
        """The next `count` replies, in order; error replies are returned as exceptions."""
        replies: list[Reply] = []
        deadline = time.monotonic() + self._timeout
        while len(replies) < count:
            reply = self._parsed()
            if reply is not False:
                replies.append(reply)
            elif not self._receive():
                self._wait(select.POLLIN, deadline)
        return replies

    def call(self, commands: Sequence[Command]) -> list[Reply]:
        """Send the commands and read one reply for each."""
        self.send(commands)
        return self.read(len(commands))

    def drain(self, limit: int = 1 << 22) -> list[Reply]:
        """Every reply that has arrived by now, without waiting; reads at most about `limit` bytes."""
        for _ in range(max(1, limit // CHUNK)):
            if not self._receive():
                break
        replies: list[Reply] = []
        while (reply := self._parsed()) is not False:
            replies.append(reply)
        return replies

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._connection.disconnect()

    def _parsed(self) -> Reply:
        """The next reply that is complete; False if there is none."""
        try:
            return self._reader.gets()
        except ConnectionError as error:  # not RESP: whoever speaks there is no Redis
            raise self._broken(error) from error

    def _receive(self) -> bool:
        """Take one chunk off the socket; False if there is none yet."""
        try:
            data = self._sock.recv(CHUNK)
        except _BLOCKED:
            return False
        except OSError as error:
            raise self._broken(error) from error
        if not data:
            raise self._broken("Redis closed the connection")
        self._reader.feed(data)
        return True

    def _wait(self, event: int, deadline: float) -> None:
        self._poll.modify(self._sock, event)
        left = deadline - time.monotonic()
        if left <= 0 or not self._poll.poll(left * 1000):
            raise self._broken(f"Redis did not answer within {self._timeout} s")

    def _broken(self, reason: object) -> ConnectionError:
        # What was sent and not answered may or may not have happened: nothing can be read in step any more.
        self.close()
        return ConnectionError(str(reason))


def _wants_read(blocked: BaseException) -> bool:
    return isinstance(blocked, ssl.SSLWantReadError)
