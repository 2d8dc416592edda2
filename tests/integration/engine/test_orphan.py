from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.engines import DEADLINE
from tests.support.processes import alive, until

PARENT = """
import os, socket, sys, time
from tests.support.engines import engine
with engine() as talk:
    talk.admit(0, {prompt!r}, 4000)
    talk.listen(lambda: len(talk.tokens[0]) >= 1)
    socket.send_fds(socket.socket(fileno={fd}), [str(talk.process.pid).encode()], [talk.process.link.fileno()])
    time.sleep(3600)
"""


@contextmanager
def family(prompt: bytes) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A parent with an engine at work: (the parent, the engine's pid, a copy of the parent's end of the link)."""
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    with ours, theirs:
        code = PARENT.format(prompt=prompt, fd=theirs.fileno())
        parent = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
        try:
            said, fds, _, _ = socket.recv_fds(ours, 64, 1)
            yield parent, int(said), fds[0]
        finally:
            parent.kill()
            parent.wait(DEADLINE)


@pytest.mark.parametrize("prompt", [b"!hang@1", b"!slow=0.01"])
def test_kill_9_of_the_parent_leaves_no_engine(prompt: bytes) -> None:
    with family(prompt) as (parent, engine, link):
        os.close(link)
        assert alive(engine)
        parent.kill()
        until(lambda: not alive(engine))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_kernel_ends_it_even_if_the_link_stays_open() -> None:
    with family(b"!hang@1") as (parent, engine, link):
        os.kill(parent.pid, signal.SIGKILL)
        until(lambda: not alive(engine))
        os.close(link)
