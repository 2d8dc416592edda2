"""One holder per card, whatever becomes of it: a lock that the kernel lets go of when its process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from worker.card import Card, CardError

FOLDERS = (Path("/run/lock"), Path("/dev/shm"))
"""Where every user may write: the first of them. Of the second, logind removes a user's files at his logout."""
PATIENCE = 2.0
"""Seconds for a holder that is just leaving, and for one who only looks whether the lock is free."""
PAUSE = 0.05


class CardTaken(CardError):
    """Another worker has the card; the message names its process."""


def default_folder() -> Path:
    """Where the locks are unless LOCK_DIR says otherwise."""
    return next(filter(_for_all, FOLDERS), Path(tempfile.gettempdir()))


class CardLock:
    """Held from the making until `release`, or until the process that made it has ended: no child inherits it."""

    def __init__(self, folder: Path, card: Card, patience: float | None = None) -> None:
        """Take the card, waiting `patience` seconds for it [PATIENCE]; CardTaken if another process has it."""
        self._fd = _open(folder, card)
        if not _locked(self._fd, PATIENCE if patience is None else patience):
            holder = _written(self._fd)
            os.close(self._fd)
            raise CardTaken(taken(card, holder))
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next one have it. The file stays: to remove it would be to let two hold it."""
        os.close(self._fd)


def holder(folder: Path, card: Card) -> str:
    """Who has the card, as `PID on HOST`; empty: nobody. CardError if that cannot be known. Leaves nothing behind."""
    if folder.is_dir() and not _path(folder, card).exists():
        return ""
    fd = _open(folder, card)
    try:
        return "" if _locked(fd, 0.0) else _written(fd)
    finally:
        os.close(fd)


def taken(card: Card, holder: str) -> str:
    """That somebody has the card, in a sentence."""
    thing = "core" if card.kind == "cpu" else f"{card.kind} card"
    return f"The {thing} {card.id} is taken by process {holder}: stop that worker, or choose another with --cards."


def _for_all(folder: Path) -> bool:
    # Not whether *this* user may write: root's worker and another's must come to the same answer.
    return folder.is_dir() and bool(folder.stat().st_mode & stat.S_IWOTH)


def _path(folder: Path, card: Card) -> Path:
    return folder / f"sagrada-card-{card.key}.lock"


def _open(folder: Path, card: Card) -> int:
    path = _path(folder, card)
    try:
        return _existing(path) if path.exists() else _new(path)
    except OSError as error:
        raise CardError(
            f"The lock of {card.key} cannot be opened: {error}. Every worker of a machine needs the same LOCK_DIR, "
            "which all of them may write to."
        ) from error


def _existing(path: Path) -> int:
    # Not with O_CREAT: in a folder for everybody the kernel then refuses a file that is another user's.
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


def _new(path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        os.fchmod(fd, 0o666)  # whatever the umask: other users' workers are to find it taken, not forbidden
        return fd
    return _existing(path)


def _locked(fd: int, patience: float) -> bool:
    return any(_try(fd) for _ in _tries(patience))


def _tries(patience: float) -> Iterator[None]:
    deadline = time.monotonic() + patience
    yield
    while time.monotonic() < deadline:
        time.sleep(PAUSE)
        yield


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written(fd: int) -> str:
    return os.pread(fd, 256, 0).decode(errors="replace").strip() or "unknown"
