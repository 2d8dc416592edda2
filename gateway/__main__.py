"""`python -m gateway`: the gateway under gunicorn's threaded worker (gateway/door.py)."""

from __future__ import annotations

import argparse
import logging
import resource
import signal
import socket
import struct
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication

from gateway.app import create_app
from gateway.config import Config, ConfigError
from gateway.door import DoorWorker
from gateway.service import Gateway

CONNECTIONS = 8192
"""Connections that one process serves at once; streams, once detached, are not among them."""

SILENCE = 10
"""Seconds without a byte, in or out, after which a client that holds a thread is given up."""


class Server(BaseApplication):
    """gunicorn with our settings: no file, no environment variable and no command line of its own."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._gateway: Gateway | None = None
        super().__init__()

    def load_config(self) -> None:
        """Hand gunicorn its settings."""
        for name, value in settings(self._config).items():
            self.cfg.set(name, value)
        self.cfg.set("when_ready", give_up_the_silent)
        self.cfg.set("post_worker_init", self._listen_to_signals)
        self.cfg.set("worker_exit", lambda arbiter, worker: self._drain())

    def load(self) -> Any:
        """The WSGI application of one worker process; gunicorn asks for it after the fork."""
        app, self._gateway = create_app(self._config)
        self._gateway.start()
        return app

    def _listen_to_signals(self, worker: DoorWorker) -> None:
        drain_on_ctrl_c(worker)
        if self._gateway is not None:
            worker.on_leaving = self._gateway.leave

    def _drain(self) -> None:
        if self._gateway is not None:
            self._gateway.drain()


def settings(config: Config) -> dict[str, Any]:
    """gunicorn's settings, by its own names."""
    shared_memory = Path("/dev/shm")
    return {
        "bind": f"[{config.host}]:{config.port}" if ":" in config.host else f"{config.host}:{config.port}",
        "proc_name": "sagrada-gateway",
        "worker_class": "gateway.door.DoorWorker",
        "workers": config.gateway_workers,
        "threads": config.gateway_threads,
        "worker_connections": CONNECTIONS,
        "backlog": 4096,
        "keepalive": 75,
        # A worker that drains tells nobody that it lives: it gets all of its drain, and time to say goodbye.
        "timeout": int(config.drain_timeout) + 60,
        "graceful_timeout": int(config.drain_timeout) + 15,
        "control_socket_disable": True,
        "worker_tmp_dir": str(shared_memory) if shared_memory.is_dir() else None,
        "loglevel": "warning",
    }


def give_up_the_silent(arbiter: Any) -> None:
    """Bound every wait of a request's thread for its client; what the listener says all connections inherit.

    A body gets longer (gateway/body.py), and one that is taken over is waited for by no thread.
    """
    seconds = struct.pack("ll", SILENCE, 0)
    for listener in arbiter.LISTENERS:
        for wait in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, wait, seconds)


def is_news(record: logging.LogRecord) -> bool:
    """Not that a client was given up: gunicorn would log a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


def drain_on_ctrl_c(worker: Any) -> None:
    """Ctrl-C reaches every process of the terminal: only the arbiter answers it, and what it then sends means drain."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, worker.handle_exit)


def options() -> argparse.ArgumentParser:
    """One option per setting; the environment variable of the same name is its default."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description="Serve Sagrada's HTTP API. Every option can be given as the environment variable of its name.",
    )
    for f in fields(Config):
        names = [f.name, *filter(None, [f.metadata.get("alias")])]
        flags = ["--" + name.replace("_", "-") for name in names]
        default = "" if f.default == "" or f.default is False else f"; {f.default}"
        bare: dict[str, Any] = {"nargs": "?", "const": "true"} if f.type == "bool" else {}
        help = f"{f.metadata['help']} ({f.name.upper()}{default})"
        parser.add_argument(*flags, metavar="X", help=help, **bare)
    return parser


def configure(argv: list[str]) -> Config:
    """The settings of environment and command line, the latter first; ConfigError names what is wrong."""
    given = {name: text for name, text in vars(options().parse_args(argv)).items() if text is not None}
    return Config.from_env(given)


def raise_file_limit() -> None:
    """As many descriptors as we may have: every stream is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Serve until SIGTERM."""
    try:
        config = configure(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"gateway: {error}")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("gunicorn.error").addFilter(is_news)
    raise_file_limit()
    Server(config).run()


if __name__ == "__main__":
    main()
