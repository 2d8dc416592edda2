"""The engine as its worker sees it: a child process with a link, a heartbeat and an end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from types import TracebackType
from typing import Self

from models import environment
from models.step import LoadSpec
from worker.beat import Beat
from worker.discovery import installed
from worker.link import FromEngine, Link, LinkClosed, Stop
from worker.options import Options, arguments

PATIENCE = 10.0
"""Seconds of silence after which an engine counts as hung, at least."""

KILL_WAIT = 10.0
"""Seconds for the kernel to end a killed process; one that a driver holds may take longer."""

DEFAULTS = {
    # OpenMP's threads must not spin while they wait: on cores that others use too, each barrier then lasts until the
    # scheduler takes the spinner off the core.
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc must not give a step's large temporaries back to the kernel: each step would fault all their pages in
    # again, which took a third of a decode step of 32 rows on a CPU.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
"""What a child finds set unless the parent's environment says otherwise."""


class EngineProcess:
    """A running engine, for one thread of its parent."""

    def __init__(self, process: subprocess.Popen[bytes], link: Link[FromEngine], beat: Beat) -> None:
        self._process, self.link, self.beat = process, link, beat

    @classmethod
    def start(
        cls,
        spec: LoadSpec,
        *,
        patience: float = PATIENCE,
        variables: Mapping[str, str] | None = None,
        cores: Set[int] = frozenset(),
    ) -> EngineProcess:
        """Spawn an engine that loads `spec`; `variables` are what its device must find set before torch starts.

        It runs on `cores`, if any are named. On Linux it dies with the *thread* that calls this: call it from one that
        lives as long as the process.
        """
        ours, theirs = socket.socketpair()
        beat = Beat.create()
        options = Options(
            link_fd=theirs.fileno(), beat_fd=beat.fd, parent=os.getpid(), patience=patience, spec=spec
        )
        with theirs, bound_to(cores):
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.engine", *arguments(options)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), beat.fd),
                env=child_environment(spec, variables or {}),
                start_new_session=True,  # Ctrl-C is for the parent, which drains
            )
        return cls(process, Link.of_parent(ours), beat)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Its exit code, waited for at most that long; None if it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def stop(self, grace: float) -> int | None:
        """Ask it to free its device and exit, kill it after `grace` seconds; its exit code."""
        with contextlib.suppress(LinkClosed):
            self.link.send(Stop())
            self.wait(grace)
        return self.kill()

    def kill(self) -> int | None:
        """End it and all its children now; its exit code, None if the kernel is still at it."""
        if self._process.returncode is None:  # not reaped: the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return self.wait(KILL_WAIT)

    def close(self) -> None:
        """Kill it if it runs, and let go of link and beat."""
        self.kill()
        self.link.close()
        self.beat.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def bound_to(cores: Set[int]) -> Iterator[None]:
    """The calling thread, for so long: a child is born with its affinity, and so are all threads of the child."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def child_environment(spec: LoadSpec, device: Mapping[str, str]) -> dict[str, str]:
    """Defaults, the parent's environment, the device's settings, and the hub's token, which argv must not show."""
    token = {"HF_TOKEN": spec.token} if spec.token else {}
    gaudi = environment.hpu(spec, installed("torch"), os.environ) if spec.device == "hpu" else {}
    return {**DEFAULTS, **os.environ, **gaudi, **device, **token}


def describe_exit(code: int) -> str:
    """What an exit code says, for people."""
    if code < 0:
        return f"the engine was killed by {signal.Signals(-code).name}"
    return f"the engine exited with code {code}"
