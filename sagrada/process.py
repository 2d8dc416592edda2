"""Child processes that end when they should: never orphaned, always reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_BOUND = str(Path(__file__).with_name("bound.py"))


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    output: int | None = None,
    keep_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child that gets `death_signal` when the calling thread ends, whatever ended it.

    It leads its own session: a Ctrl-C in the terminal reaches the parent alone, which then stops its children
    in order. `output` is the file descriptor that takes both of its streams (None: the parent's), `keep_open`
    are those that it inherits.
    """
    bound = [sys.executable, "-I", "-S", _BOUND, str(os.getpid()), str(int(death_signal))]
    return subprocess.Popen(
        [*bound, *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=keep_open,
        start_new_session=True,
    )


def stop(child: subprocess.Popen[bytes], timeout: float) -> bool:
    """Ask with SIGTERM, insist after `timeout` seconds; whether asking was enough."""
    if child.poll() is None:
        child.terminate()
    return finish(child, timeout)


def finish(child: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait for the end, insist with SIGKILL after `timeout` seconds; whether it ended by itself."""
    try:
        child.wait(max(0.0, timeout))
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        kill(child)


def kill(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the child and to all that it left in its process group, and reap it."""
    # No such group, or (macOS) only zombies in it: everything has ended by itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
