"""`python -m worker`: serve one model. `--help` names every setting."""

from __future__ import annotations

import logging
import os
import socket
import sys

from worker.app import App
from worker.config import ConfigError, from_arguments


def main(argv: list[str]) -> int:
    """Run until told to stop; the exit code."""
    try:
        config, log_level = from_arguments(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    worker = App(config).Worker(
        # Several workers may share a host; Celery's control messages go by this name.
        hostname=f"sagrada-{os.getpid()}@{socket.gethostname()}",
        loglevel=log_level.upper(),
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    return worker.exitcode or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
