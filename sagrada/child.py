"""One child of the fleet: its log, its restarts."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from sagrada.process import finish, kill, spawn

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first restart, and the most that doubling leads to."""
STEADY = 60.0
"""Seconds of life after which a death counts as the first again."""


LOOK = 0.05
"""Seconds between two looks at children that were asked to end."""


class Child:
    """A process that is to run for as long as the fleet does. All calls come from one thread: see spawn()."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path | None = None
    ) -> None:
        """`log` takes all that it says; None: it says it where this process does."""
        self.name, self.log = name, log
        self.restarts = 0
        self.deaths = 0
        """In a row, none of them after a steady life."""
        self.process: subprocess.Popen[bytes] | None = None
        self._command, self._env = command, env
        self.pause = 0.0
        """Seconds between its last death and its next start."""
        self._since, self._due = 0.0, 0.0

    def start(self) -> None:
        """Run it, its output appended to its log."""
        with self.log.open("ab") if self.log else nullcontext() as log:
            self.process = spawn(self._command, env=self._env, output=log.fileno() if log else None)
        self._since = time.monotonic()

    def died(self) -> int | None:
        """Its exit status, told once, when it has ended; `revive` will then start it again after a pause."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        kill(self.process)  # what it may have left in its group
        self.process = None
        now = time.monotonic()
        self.deaths = 1 if now - self._since > STEADY else self.deaths + 1
        self.pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self.deaths - 1, 10))
        self._due = now + self.pause
        return status

    def revive(self) -> bool:
        """Start it again if it is down and its pause is over; whether that was so."""
        if self.process is not None or time.monotonic() < self._due:
            return False
        self.restarts += 1
        self.start()
        return True

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def terminate(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, without waiting."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)

    def finish(self, timeout: float) -> bool:
        """Wait until it has ended, insist after `timeout` seconds; whether it ended by itself."""
        ended = self.process is None or finish(self.process, timeout)
        self.process = None
        return ended

    def last_words(self, lines: int = 8) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log else ""
        except OSError:
            return ""


def ask(
    children: Sequence[Child], how: signal.Signals, seconds: float, impatient: Callable[[], bool]
) -> None:
    """Ask all to end; wait until they have, the seconds are over, or somebody is impatient."""
    for child in children:
        child.terminate(how)
    deadline = time.monotonic() + seconds
    while any(child.runs for child in children) and time.monotonic() < deadline and not impatient():
        time.sleep(LOOK)


def ended(status: int) -> str:
    """What an exit status says, for people."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
