"""How sure a 202 is: with DURABILITY=strict it is said only of a record that is on disk, and on so many replicas."""

from __future__ import annotations

import logging
from typing import Any

import redis

from gateway.config import Config
from gateway.errors import Unavailable

log = logging.getLogger("sagrada.gateway")

TIMEOUT = 1.0
"""Seconds for disk and replicas; an fsync of `appendfsync everysec` is due within one."""

_NOT_KEPT = "the job could not be made durable ({why}) and was not accepted; try again in a moment"


class Durability:
    """What a gateway waits for before it says that a job is accepted."""

    def __init__(self, config: Config) -> None:
        self.strict = config.durability == "strict"
        self._replicas = config.durability_replicas
        self._fsync = True
        """False once the server has said that it has no WAITAOF (Redis before 7.2)."""

    def ensure(self, connection: redis.Redis) -> None:
        """Wait until all that was written on this client's one connection is safe; Unavailable if it is not in time.

        The commands answer for the writes of the connection they are sent on, and for no others: on a new one, to a
        Redis that may have lost them, they would answer at once. So a client's retries are passed by.
        """
        milliseconds = round(1000 * TIMEOUT)
        local, replicas = 1, 0
        if self._fsync:
            try:
                # One fsync on disk here, and as many replicas that have it on theirs.
                local, replicas = _call(connection, "WAITAOF", 1, self._replicas, milliseconds)
            except redis.ResponseError as error:
                self._without_fsync(error)
        if not self._fsync and self._replicas:
            replicas = _call(connection, "WAIT", self._replicas, milliseconds)
        if local < 1:
            raise Unavailable(_NOT_KEPT.format(why=f"no fsync within {TIMEOUT:g} s"))
        if replicas < self._replicas:
            raise Unavailable(_NOT_KEPT.format(why=f"{replicas} of {self._replicas} replicas have it"))

    def _without_fsync(self, error: redis.ResponseError) -> None:
        if "unknown command" not in str(error).lower():
            raise Unavailable(_NOT_KEPT.format(why=str(error))) from error
        self._fsync = False
        log.warning(
            "this Redis has no WAITAOF (7.2 and newer have): DURABILITY=strict waits for replicas only"
        )


def _call(client: redis.Redis, *command: str | int) -> Any:
    connection: Any = client.connection
    connection.send_command(*command, check_health=False)
    return connection.read_response()
