"""`sagrada up`: the whole fleet on this machine, watched over until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from sagrada import __version__
from sagrada.child import Child, ask, ended
from sagrada.config import UpConfig
from sagrada.embedded import EmbeddedServer, NoServer, port_is_free
from sagrada.greeting import Greeting
from sagrada.lock import DataDirLock
from sagrada.told import Told, signals

TICK = 0.1
"""Seconds between two looks at the children."""
REDIS_PORT = 6379
REDIS_PAUSE = 2.0
"""Seconds before a Redis that does not start is tried again."""
GRACE = 5.0
"""Seconds beyond the drain timeout before a child that does not end is killed."""


class CannotStart(Exception):
    """The fleet cannot run as asked; the message says why and what to do."""


def run(config: UpConfig, console: Console) -> None:
    """Start the fleet, keep it running, and drain it on SIGINT, SIGTERM or SIGHUP. A second signal kills."""
    _check_port(config)
    try:
        lock = DataDirLock(config.data_dir)
    except OSError as error:
        raise CannotStart(
            f"Cannot keep data in {config.data_dir}: {error.strerror}, as user {os.getuid()}. Let that user write "
            "there, or choose another folder with --data-dir."
        ) from error
    try:
        with signals() as told:
            Up(config, console, lock.fd, told).run()
    finally:
        lock.release()


class Up:
    """The processes of one fleet. Everything happens in the main thread: children end with the thread they began in."""

    def __init__(self, config: UpConfig, console: Console, lock_fd: int, told: Told) -> None:
        self._config, self._console, self._told = config, console, told
        self._lock_fd = lock_fd
        self._redis: EmbeddedServer | None = None
        self._children: list[Child] = []
        self._greeting = Greeting(config, console, told.stop)

    def run(self) -> None:
        """From the first process to the last."""
        try:
            self._start()
            self._greeting.start()
            while not self._told.stop.wait(TICK):
                self._look_after()
        finally:
            self._told.stop.set()
            self._drain()

    def _start(self) -> None:
        from wire.redis_url import public  # here: see sagrada/config.py

        config, say = self._config, self._say
        say(f"Sagrada {__version__}, serving {config.model_id}")
        if not (url := config.redis_url):
            self._redis = _embedded(config, self._lock_fd)
            url = self._redis.url
        logs = _log_folder(config)
        names = ["gateway", *(f"worker-{n}" for n in range(1, config.workers + 1))]
        for name in names:
            room = name.partition("-")[0]
            log = _fresh(logs / f"{name}.log") if logs else None
            env = config.environment(room, url)
            self._children.append(Child(name, [sys.executable, "-m", room], env, log))
            self._children[-1].start()
        say(f"  gateway  {config.url}\n  redis    {public(url)}\n  logs     {logs or 'here'}")

    def _look_after(self) -> None:
        """Start again what has died."""
        if self._redis is not None and not self._redis.alive:
            self._say("Redis has died: starting it again over its data.")
            try:
                self._redis.start()
            except NoServer as error:
                self._say(f"{error} Trying again.")
                self._told.stop.wait(REDIS_PAUSE)
        for child in self._children:
            if (status := child.died()) is not None:
                self._mourn(child, status)
            elif child.revive():
                self._say(f"{child.name} is started again ({child.restarts}).")

    def _mourn(self, child: Child, status: int) -> None:
        how = ended(status)
        # Before the first readiness a refusal is final: the model or a setting is wrong, and the person is watching.
        if status > 0 and not self._greeting.ready.is_set():
            reason = self._greeting.reason() or "see its log"
            words = f"\nIts log, {child.log}, ends:\n{child.last_words()}" if child.log else ""
            raise CannotStart(f"{child.name} {how}: {reason}{words}")
        self._say(f"{child.name} {how}{f'; its log is {child.log}' if child.log else ''}.")

    def _drain(self) -> None:
        """Gateway and workers first, together; Redis last, when nobody needs it any more."""
        heard = self._told.times  # before a word is said: whoever reads it may answer at once
        children = [child for child in self._children if child.process is not None]
        if children:
            limit = self._config.drain_timeout
            self._say(
                f"Draining, {limit:g} s at most; what is not finished waits for the next start. Ctrl-C: now."
            )
        seconds = self._config.drain_timeout + GRACE
        ask(children, signal.SIGTERM, seconds, lambda: self._told.times > heard)
        for child in children:
            child.finish(0)
        if self._redis is not None:
            self._redis.stop()
        if children:
            self._say("Stopped.")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _log_folder(config: UpConfig) -> Path | None:
    """Where each child has a file; None: they say what they say where this process does."""
    if config.logs == "here":
        return None
    folder = config.data_dir / "logs"
    folder.mkdir(exist_ok=True)
    return folder


def _fresh(log: Path) -> Path:
    """The file of that name, what it held put aside."""
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    return log


def _check_port(config: UpConfig) -> None:
    try:
        free = port_is_free(config.port, config.host)
    except OSError as error:
        raise CannotStart(
            f"Cannot listen on {config.host}: {error.strerror}. Choose another --host."
        ) from error
    if not free:
        raise CannotStart(
            f"Port {config.port} of {config.host} is taken: stop what listens there, or choose another with --port."
        )


def _embedded(config: UpConfig, lock_fd: int) -> EmbeddedServer:
    """A server that runs: on Redis's own port, where tools look first, or else on a free one."""
    if port_is_free(REDIS_PORT):
        # Somebody may take the port before the server does.
        with contextlib.suppress(NoServer):
            return _started(config, lock_fd, REDIS_PORT)
    return _started(config, lock_fd, 0)


def _started(config: UpConfig, lock_fd: int, port: int) -> EmbeddedServer:
    server = EmbeddedServer(config.data_dir / "redis", port, keep_open=(lock_fd,))
    server.start()
    return server
