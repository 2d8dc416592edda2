"""`sagrada worker --cards`: one worker for each card or group of cards, watched over until it is told to stop.

The worker's room knows the cards: it is asked which there are, and each worker takes its own, or says why it cannot.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec

from sagrada.child import Child, ask, ended
from sagrada.config import room_environment
from sagrada.told import Told, signals

TICK = 0.1
"""Seconds between two looks at the workers."""
GRACE = 30.0
"""Seconds beyond the drain timeout before a worker that does not end is killed."""
MOST_DEATHS = 3
"""Workers that each died so often in a row, all of them: no other start will help."""
EXIT_FAILED, EXIT_REFUSED = 1, 2

Say = Callable[[str], None]


class Group(msgspec.Struct, frozen=True):
    """What one worker is to be bound to."""

    card: str
    label: str


class Groups(msgspec.Struct, frozen=True):
    """The answer of `python -m worker groups`."""

    device: str
    drain_timeout: float
    groups: list[Group]


def run(cards: str, args: Sequence[str], say: Say) -> int:
    """Start the workers, keep them running, and drain them on SIGINT, SIGTERM or SIGHUP; the exit code.

    A second signal hands over what still runs, a third kills.
    """
    env = room_environment()
    # Its refusal goes to our standard error, and its exit code is ours.
    asked = subprocess.run(
        [sys.executable, "-m", "worker", "groups", cards, *args], env=env, stdout=subprocess.PIPE
    )
    if asked.returncode:
        return asked.returncode
    groups = msgspec.json.decode(asked.stdout, type=Groups)
    command = [sys.executable, "-m", "worker", *args, "--device", groups.device]
    children = [Child(f"worker {g.label}", [*command, "--card", g.card], env) for g in groups.groups]
    with signals() as told:
        return Workers(children, groups.drain_timeout, told, say).run()


class Workers:
    """The workers of one machine. Everything happens in the main thread: children end with the thread they began in."""

    def __init__(self, children: list[Child], drain_timeout: float, told: Told, say: Say) -> None:
        self._children, self._drain_timeout = children, drain_timeout
        self._told, self._say = told, say
        self._statuses: dict[str, int] = {}
        """Worker → how it ended last."""

    def run(self) -> int:
        """From the first start to the last end; the exit code."""
        failed = 0
        try:
            for child in self._children:
                child.start()
            self._say(f"Started {', '.join(child.name for child in self._children)}.")
            while not failed and not self._told.stop.wait(TICK):
                failed = self._look_after()
        finally:
            drained = self._drain()
        return failed or (0 if drained else EXIT_FAILED)

    def _look_after(self) -> int:
        """Start again what has died; an exit code if that is of no use."""
        for child in self._children:
            if (status := child.died()) is not None:
                self._statuses[child.name] = status
                if status == EXIT_REFUSED:
                    self._say(f"{child.name} refuses its settings.")
                    return EXIT_REFUSED
                self._say(f"{child.name} {ended(status)}: starting it again in {child.pause:g} s.")
            elif child.revive():
                self._say(f"{child.name} is started again ({child.restarts}).")
        if all(map(self._hopeless, self._children)):
            self._say(f"No worker stays up: each has ended {MOST_DEATHS} times in a row.")
            return EXIT_FAILED
        return 0

    def _hopeless(self, child: Child) -> bool:
        # One that was killed has not failed.
        return not child.runs and child.deaths >= MOST_DEATHS and self._statuses[child.name] > 0

    def _drain(self) -> bool:
        """All together; whether each ended by itself, in good order, and was given its time."""
        heard = self._told.times  # before a word is said: whoever reads it may answer at once
        # Who died before is none of those that are drained.
        children = [child for child in self._children if child.died() is None and child.process is not None]
        if children:
            self._say(
                f"Draining, {self._drain_timeout:g} s at most. Once more: hand over what still runs, now."
            )
        seconds = self._drain_timeout + GRACE
        ask(children, signal.SIGTERM, seconds, lambda: self._told.times > heard)
        if self._told.times > heard and any(child.runs for child in children):
            self._say("Handing over to other workers. Once more: kill.")
            # Celery's cold shutdown
            ask(children, signal.SIGQUIT, GRACE, lambda: self._told.times > heard + 1)
        good = [self._gone(child) for child in children]  # each of them, whatever the first was
        return all(good) and self._told.times <= heard

    def _gone(self, child: Child) -> bool:
        """End it if need be; whether its end was a good one."""
        process = child.process
        child.finish(0)
        status = process.returncode if process is not None else 0
        if process is not None:
            self._say(f"{child.name} {ended(status)}.")
        return status in (0, -signal.SIGTERM)  # SIGTERM: it had not even begun
