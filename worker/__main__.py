"""`python -m worker`: serve one model. `--help` names every setting."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from worker import groups
from worker.app import App
from worker.card import CardError
from worker.config import ConfigError, from_arguments
from worker.doctor import run as doctor

EXIT_NO_CARD, EXIT_REFUSED = 1, 2


def serve(argv: Sequence[str]) -> int:
    """Run one worker until told to stop; the exit code. ConfigError, CardError."""
    config, log_level = from_arguments(argv)
    app = App(config)
    label = app.seat.label
    logging.basicConfig(
        level=log_level.upper(),
        format=" ".join(["%(asctime)s", *filter(None, [label]), "%(levelname)s %(name)s: %(message)s"]),
    )
    worker = app.Worker(
        # Several workers may share a host; Celery's control messages go by this name.
        hostname="-".join(["sagrada", *filter(None, [label]), f"{os.getpid()}@{socket.gethostname()}"]),
        loglevel=log_level.upper(),
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    return worker.exitcode or 0


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {"doctor": doctor.main, "groups": groups.main}
"""What `python -m worker` does besides: for `sagrada`, which starts it as a process."""


def main(argv: list[str]) -> int:
    """Do as the arguments say; the exit code."""
    command = COMMANDS.get(argv[0]) if argv else None
    try:
        return command(argv[1:]) if command else serve(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except CardError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NO_CARD


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
