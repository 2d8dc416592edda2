"""One fleet per data folder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


class DataDirInUse(Exception):
    """Another `sagrada up` holds this data folder: stop it first, or choose another with --data-dir."""


class DataDirLock:
    """Held until this process, and every child that inherited `fd`, has ended: no crash leaves it behind.

    The embedded server inherits it. So after a killed `up` the next one waits until the old server has written its
    data and gone, instead of starting a second one over the same files.
    """

    def __init__(self, data_dir: Path, patience: float = 5.0) -> None:
        """Take the lock, waiting `patience` seconds for one who is just leaving; DataDirInUse otherwise."""
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = data_dir / "lock"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + patience
        while not self._try():
            if time.monotonic() > deadline:
                holder = path.read_text().strip() or "unknown"
                os.close(self.fd)
                raise DataDirInUse(
                    f"Another `sagrada up` (process {holder}) holds {data_dir}: stop it first, or choose another "
                    "folder with --data-dir."
                )
            time.sleep(0.05)
        os.truncate(self.fd, 0)
        os.write(self.fd, f"{os.getpid()}\n".encode())

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let the next one in; children that still hold it keep it."""
        os.close(self.fd)
