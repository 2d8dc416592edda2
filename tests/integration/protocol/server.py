"""The real Redis as the model's processes reach it, its replica, and the model's time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as LostConnection

from tests.integration.protocol.operation import carry
from wire.resp import Command, Reply, RespConnection


class Clock:
    """What passes for `time` in the modules that wait: it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Server:
    """Redis, and a replica that lags: it has the result of the commands up to some moment, and of none after it.

    So has a real one, for Redis hands its writes on in order and a script's as a whole. A copy of all keys, taken
    between two commands, is the same state without the second it takes to promote a server; the real thing is in
    tests/chaos/test_failover.py. What else a failover is to a client is here too: every connection breaks, Redis
    says that it is another one, and it knows no scripts.
    """

    def __init__(self, url: str) -> None:
        self.url, self.clock = url, Clock()
        self.redis: Any = Redis.from_url(url)
        self.raw = RespConnection(url)
        self.epoch = 0
        """Failovers so far: a connection of an earlier epoch is broken."""
        self._replica: list[tuple[bytes, int, bytes]] = []

    def close(self) -> None:
        self.raw.close()
        self.redis.close()

    def reset(self) -> None:
        """Another story begins."""
        self.raw.call([("FLUSHDB",), ("SCRIPT", "FLUSH")])
        self._replica = []

    def connect(self, url: str, *, timeout: float) -> Connection:
        """In place of RespConnection."""
        return Connection(self)

    def replicate(self) -> None:
        """The replica has heard everything up to now."""
        (keys,) = self.raw.call([("KEYS", "*")])
        values = self.raw.call([command for key in keys for command in (("DUMP", key), ("PTTL", key))])
        self._replica = list(zip(keys, [max(0, ttl) for ttl in values[1::2]], values[::2], strict=True))

    def fail_over(self) -> None:
        """The master is gone; here is what the replica has."""
        restore: list[Command] = [("RESTORE", *each) for each in self._replica]
        self.raw.call([("FLUSHDB",), ("SCRIPT", "FLUSH"), *restore])
        self.epoch += 1


class Client(Redis):
    """A process's redis-py client. Of a pipeline, too, every command is one at which things may happen."""

    server: Server
    epoch = 0
    wrote = False
    retries = 0
    """How often a command is sent again after an error, as redis-py is told by who makes the client."""

    @classmethod
    def of(cls, server: Server, retries: int = 0) -> Client:
        """Connected now."""
        made = cls(connection_pool=server.redis.connection_pool)
        made.server, made.epoch, made.retries = server, server.epoch, retries
        return made

    def client(self) -> Client:
        """A client with a connection of its own."""
        return Client.of(self.server, self.retries)

    def close(self) -> None:
        """The pool is the server's."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """The answer; raises what Redis or the accident raises."""
        for _ in range(self.retries):
            try:
                return carry(lambda: self._execute(args, options))
            except LostConnection:
                self._reconnect()
        try:
            return carry(lambda: self._execute(args, options))
        except LostConnection:
            self._reconnect()
            raise

    def _execute(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        if self.epoch != self.server.epoch:
            raise LostConnection("Redis failed over")
        if args[0] == "WAITAOF":  # it answers for the writes of this one connection
            if self.wrote:
                self.server.replicate()
            return [1, 1]
        self.wrote = True
        answer: Any = self.server.redis.execute_command(*args, **options)
        if args[0] == "INFO":
            answer["run_id"] = f"server {self.epoch}"
        return answer

    @property  # type: ignore[override]  # redis-py has an attribute there
    def connection(self) -> Client:
        """Its one connection, for who wants no retries."""
        return self

    @connection.setter
    def connection(self, _: Any) -> None:
        """redis-py's own is of no use."""

    def send_command(self, *args: Any, **_: Any) -> None:
        self._sent = args

    def read_response(self) -> Any:
        return carry(lambda: self._execute(self._sent, {}))

    def _reconnect(self) -> None:
        self.epoch, self.wrote = self.server.epoch, False

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """One that sends its commands one by one."""
        return _Pipeline(self)


class _Pipeline(Pipeline):
    def __init__(self, client: Client) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, False, None)
        self._client = client

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        stack, self.command_stack = list(self.command_stack), []
        return [self._client.execute_command(*args, **options) for args, options in stack]


class Connection:
    """A raw connection of worker.pipeline, as Client is to redis-py."""

    def __init__(self, server: Server) -> None:
        self._server, self._epoch = server, server.epoch

    def call(self, commands: Sequence[Command]) -> list[Reply]:
        if commands and commands[0][0] == "SCRIPT":
            return self._send(commands)
        if commands and commands[0][0] == "MULTI":  # Redis takes all of them or none
            return carry(lambda: self._send(commands))
        return [reply for command in commands for reply in carry(partial(self._send, [command]))]

    def _send(self, commands: Sequence[Command]) -> list[Reply]:
        if self._epoch != self._server.epoch:
            raise LostConnection("Redis failed over")
        return self._server.raw.call(commands)

    def close(self) -> None:
        """The socket is the server's."""
