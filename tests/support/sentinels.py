"""A master, its replica, and sentinels that watch over both: real processes, to be killed at will."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from sagrada.embedded import EmbeddedServer, find_server, free_port
from sagrada.process import spawn, stop
from tests.support.processes import until

NAME = "the-master"
DOWN_AFTER = 0.5
"""Seconds of silence that make a server down."""


class Sentinels:
    """Two servers and some sentinels, each process with the data folder of its own under `folder`."""

    def __init__(
        self,
        folder: Path,
        count: int = 3,
        *,
        flags: Sequence[str] = (),
        lines: Sequence[str] = (),
        login: tuple[str, str] | None = None,
        prepare: Callable[[EmbeddedServer], None] = lambda server: None,
    ) -> None:
        """`flags` are the servers', `lines` are added to each sentinel's configuration.

        `login`: the test's own user and password, on all of them. `prepare` is called with each server that has
        started.
        """
        self.folder, self._lines, self._login, self._prepare = folder, lines, login, prepare
        flags = (*flags, "--repl-diskless-sync-delay", "0")  # nobody else will want the same copy
        self.servers = [EmbeddedServer(folder / "a", flags=flags)]
        follows = ("--replicaof", "127.0.0.1", str(self.servers[0].port))
        self.servers.append(EmbeddedServer(folder / "b", flags=(*flags, *follows)))
        self.ports = [free_port() for _ in range(count)]
        self._sentinels: list[subprocess.Popen[bytes]] = []

    def url(self, *, login: str = "", query: str = "", db: int = 0) -> str:
        """What Sagrada is given; `login` ends with an @."""
        first, *others = [f"sentinel://{{}}127.0.0.1:{port}" for port in self.ports]
        nodes = ";".join([first.format(login), *(other.format("") for other in others)])
        return f"{nodes}/{db}?master_name={NAME}{query}"

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
                self._prepare(server)
            until(lambda: self.follows(self.servers[1]), 60, "the replica to be in step", despite=RedisError)
            for port in self.ports:
                self._start_sentinel(port)
            knows = self._knows_all
            until(lambda: all(map(knows, self.ports)), 60, "the sentinels to know all", despite=RedisError)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for sentinel in self._sentinels:
            stop(sentinel, 5)
        for server in self.servers:
            if server.child is not None:
                server.child.send_signal(signal.SIGCONT)
            server.stop()

    @property
    def master(self) -> EmbeddedServer:
        """The server that the sentinels name."""
        with self._ask(self.ports[0]) as sentinel:
            _, port = sentinel.sentinel_get_master_addr_by_name(NAME)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> EmbeddedServer:
        """The other one."""
        return next(server for server in self.servers if server is not self.master)

    def fail_over(self) -> None:
        """As an administrator does while the master lives, again until the sentinel has heard enough of the replica."""
        with self._ask(self.ports[0]) as sentinel:

            def begun() -> bool:
                try:
                    sentinel.execute_command("SENTINEL", "FAILOVER", NAME)
                except ResponseError as error:
                    if not str(error).startswith("NOGOODSLAVE"):
                        raise
                    return False
                return True

            until(begun, 30, "a replica that the sentinel would promote")

    def promoted(self, server: EmbeddedServer, within: float = 60) -> None:
        """Wait until every sentinel names this server, and it is a master."""

        def is_master() -> bool:
            names = {port: self._master_of(port) for port in self.ports}
            return (
                set(names.values()) == {server.port} and self.info(server, "replication")["role"] == "master"
            )

        until(is_master, within, "the replica to be promoted", despite=RedisError)

    def follows(self, server: EmbeddedServer) -> bool:
        """Whether it is a replica that is in step."""
        found = self.info(server, "replication")
        return bool(found["role"] == "slave" and found["master_link_status"] == "up")

    def caught_up(self, replica: EmbeddedServer) -> bool:
        """Whether it has all that the master has written."""
        there = self.info(self.servers[1 - self.servers.index(replica)], "replication")["master_repl_offset"]
        return bool(self.info(replica, "replication")["master_repl_offset"] >= there)

    def info(self, server: EmbeddedServer, section: str) -> dict[str, Any]:
        with self._client(server.port) as client:
            found: Any = client.info(section)
            return dict(found)

    def kill_sentinel(self, number: int) -> None:
        """One of them, as a crash would."""
        self._sentinels[number].kill()
        self._sentinels[number].wait()
        del self.ports[number]

    def _start_sentinel(self, port: int) -> None:
        folder = self.folder / f"sentinel-{port}"
        folder.mkdir(parents=True)
        quorum = len(self.ports) // 2 + 1
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"logfile {folder / 'log'}",
            f"sentinel monitor {NAME} 127.0.0.1 {self.servers[0].port} {quorum}",
            f"sentinel down-after-milliseconds {NAME} {round(DOWN_AFTER * 1000)}",
            f"sentinel failover-timeout {NAME} 10000",
            *self._lines,
        ]
        config = folder / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n")
        self._sentinels.append(spawn([str(find_server()), str(config), "--sentinel"]))

    def _knows_all(self, port: int) -> bool:
        with self._ask(port) as sentinel:
            state = sentinel.sentinel_masters()[NAME]
        return (state["num-slaves"], state["num-other-sentinels"]) == (1, len(self.ports) - 1)

    def _master_of(self, port: int) -> int:
        with self._ask(port) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(NAME)[1])

    def _ask(self, port: int) -> Any:
        return contextlib.closing(self._client(port))

    def _client(self, port: int) -> Any:
        user, password = self._login or (None, None)
        return Redis(port=port, username=user, password=password)
