"""The publisher's own connection: one hand-packed write per batch, and a patient way back after a loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from wire.commands import LOAD
from wire.resp import Command, Reply, RespConnection

log = logging.getLogger(__name__)

LONGEST_PAUSE = 1.0
"""Seconds between two attempts to connect, at most."""
_OF_REDIS = ("READONLY", "NOSCRIPT", "LOADING", "MISCONF", "NOREPLICAS", "MASTERDOWN")
"""Refusals that say something of Redis, not of the one command."""


class Away(Exception):
    """Redis cannot be used now; what was sent may or may not have happened. Try again at the next turn."""


class Pipeline:
    """Connects when needed. Every connection has a number: what was written on an earlier one is in doubt."""

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout` in seconds bounds every wait for Redis."""
        self._url, self._timeout = url, timeout
        self._connection: RespConnection | None = None
        self._retry_at = 0.0
        self._pause = 0.0
        self.number = 0
        """Of the connection; grows with each."""

    @property
    def wait(self) -> float:
        """Seconds until it is worth trying; 0 while connected."""
        return 0.0 if self._connection else max(0.0, self._retry_at - time.monotonic())

    def connect(self) -> None:
        """Make sure that there is a connection; Away if there cannot be one now."""
        if self._connection:
            return
        if self.wait:
            raise Away("waiting to connect again")
        try:
            connection = RespConnection(self._url, timeout=self._timeout)
            self._connection = connection
            self._checked(connection.call(LOAD))
        except (RedisError, OSError) as error:
            raise self._lost(error) from error
        self.number += 1
        self._pause = 0.0

    def call(self, commands: Sequence[Command]) -> list[Reply]:
        """One reply per command; what Redis refuses of a single command is returned as a ResponseError."""
        if not commands:
            return []
        self.connect()
        assert self._connection
        try:
            return self._checked(self._connection.call(commands))
        except (RedisError, OSError) as error:
            raise self._lost(error) from error

    def together(self, commands: Sequence[Command]) -> list[Reply]:
        """As `call`, but Redis takes all of them or, where it is full, none; then each reply is what it said."""
        if len(commands) < 2:
            return self.call(commands)
        *queued, done = self.call([("MULTI",), *commands, ("EXEC",)])
        if isinstance(done, ResponseError):
            return [next((reply for reply in queued if isinstance(reply, ResponseError)), done)] * len(
                commands
            )
        try:
            return self._checked(done)
        except RedisError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _checked(self, replies: list[Reply]) -> list[Reply]:
        for reply in replies:
            if isinstance(reply, RedisConnectionError | NoScriptError | ReadOnlyError):
                raise reply
            if isinstance(reply, ResponseError) and str(reply).startswith(_OF_REDIS):
                raise RedisConnectionError(str(reply))
        return replies

    def _lost(self, error: Exception) -> Away:
        self.close()
        self._pause = min(LONGEST_PAUSE, self._pause * 2 or 0.05)
        self._retry_at = time.monotonic() + self._pause
        log.warning("Redis cannot be used (%s): trying again in %.2f s", error, self._pause)
        return Away(str(error))
