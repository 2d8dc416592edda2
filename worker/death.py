"""An engine dies with its worker: an orphan would keep the card. Belt, braces and string.

The kernel kills it when its parent's thread dies (Linux), a check closes the gap before that was asked for, and a
thread of its own watches the link, on which nothing but the parent's end can cause a hang-up.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

EXIT_ORPHANED = 71
"""The exit code of an engine whose parent is gone."""

_PR_SET_PDEATHSIG = 1
_HANG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)


def die_with_parent(parent: int, link_fd: int) -> None:
    """From now on this process ends, at once and whatever it does, when the process `parent` has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_ORPHANED)
    threading.Thread(target=_watch, args=(link_fd,), name="link-watchdog", daemon=True).start()


def _watch(link_fd: int) -> None:
    poll = select.poll()
    poll.register(link_fd, _HANG_UP)
    while not poll.poll():
        pass
    os._exit(EXIT_ORPHANED)  # not sys.exit: the main thread may be inside a step that never ends
