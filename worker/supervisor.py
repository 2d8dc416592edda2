"""The engine child's life, seen from its parent: started, loading, serving, hung or dead, started again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from worker.launcher import EngineProcess, describe_exit
from worker.link import FromEngine, LinkClosed, LoadFailed, Progress, Ready, ToEngine

log = logging.getLogger(__name__)

MOST_FAILED_STARTS = 3
"""Engines in a row that died before they were ready; after that the model counts as impossible to load."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before another engine is started: doubled for each that dies young."""
STEADY = 60.0
"""Seconds of service after which a death is not held against the next engine."""


@dataclass(frozen=True, slots=True)
class Died:
    """The engine is gone, with all its sequences; another will be started."""

    reason: str


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The model cannot be served; no other engine will be started."""

    reason: str


Happened: TypeAlias = FromEngine | Died | GaveUp


class Supervisor:
    """Keeps one engine. All calls from one thread that lives as long as the process: its child dies with it."""

    def __init__(self, start: Callable[[], EngineProcess]) -> None:
        """`start` spawns an engine."""
        self._start = start
        self._engine: EngineProcess | None = None
        self._start_at = 0.0
        self._ready_at = 0.0
        self._young_deaths = 0
        self.state: Literal["loading", "serving", "failed"] = "loading"
        self.stage, self.progress = "starting", 0.0
        self.restarts = -1
        """Engines started after the first."""

    def fileno(self) -> int | None:
        """The link, for poll(); None while there is no engine."""
        return self._engine.link.fileno() if self._engine else None

    @property
    def backlog(self) -> bool:
        """Whether the link is to be watched for room to write."""
        return bool(self._engine and self._engine.link.backlog)

    @property
    def wait(self) -> float:
        """Seconds until another engine is due; infinite while there is one."""
        if self._engine or self.state == "failed":
            return float("inf")
        return max(0.0, self._start_at - time.monotonic())

    def send(self, frame: ToEngine) -> None:
        """To the engine, if there is one; whether it died is heard from `turn`."""
        if self._engine:
            try:
                self._engine.link.send(frame)
            except LinkClosed:
                log.debug("the engine did not take a frame: it is gone")

    def turn(self) -> list[Happened]:
        """Start, listen, look at the watch: what has happened, in order."""
        if self._engine is None:
            if self.state != "failed" and self.wait == 0.0:
                self._spawn()
            return []
        try:
            self._engine.link.flush()
            heard: list[Happened] = [*map(self._hear, self._engine.link.receive())]
        except LinkClosed:
            return [self._bury(self._engine, "")]
        if self.state == "failed":
            self._engine.close()
            self._engine = None
        elif late := self._engine.beat.overdue():
            heard.append(self._bury(self._engine, f"the engine hung: its step is {late:.1f} s overdue"))
        return heard

    def stop(self, grace: float) -> None:
        """Let the engine free its device, for `grace` seconds at most; then it is gone."""
        self.state = "failed"
        if self._engine:
            self._engine.stop(grace)
            self._engine.close()
            self._engine = None

    def _spawn(self) -> None:
        self.state, self.stage, self.progress = "loading", "starting", 0.0
        self.restarts += 1
        self._ready_at = 0.0
        self._engine = self._start()
        log.info("engine %d started", self._engine.pid)

    def _hear(self, frame: FromEngine) -> Happened:
        match frame:
            case Progress():
                self.stage, self.progress = frame.stage, frame.done / max(1, frame.total)
                if self.state == "serving" and frame.done == frame.total:
                    self.stage = ""
            case Ready():
                self.state = "serving"
                if self.progress == 1.0:  # else the rest of the plan is still to be warmed up
                    self.stage = ""
                self._ready_at = time.monotonic()
            case LoadFailed():
                self.state = "failed"
                return GaveUp(frame.error)
        return frame

    def _bury(self, engine: EngineProcess, reason: str) -> Died | GaveUp:
        code = engine.kill()
        engine.close()
        self._engine = None
        reason = reason or describe_exit(code if code is not None else -9)
        steady = self._ready_at and time.monotonic() - self._ready_at > STEADY
        self._young_deaths = 0 if steady else self._young_deaths + 1
        if not self._ready_at and self._young_deaths >= MOST_FAILED_STARTS:
            self.state = "failed"
            return GaveUp(f"{reason}, {self._young_deaths} times in a row while it loaded the model")
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._young_deaths, 10))
        self.state, self.stage, self.progress = "loading", "restarting", 0.0
        self._start_at = time.monotonic() + pause
        log.error("%s: starting another in %.1f s", reason, pause)
        return Died(reason)
