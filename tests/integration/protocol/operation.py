"""Operations that stop before every command they send to Redis: there others go on, replies get lost, processes die."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ResponseError

T = TypeVar("T")

ALL = 10_000
"""More commands than any operation has."""
PATIENCE = 60.0
"""Seconds for the way from one command to the next."""


class Killed(BaseException):
    """The process is dead: no `except Exception` is to go on after it."""


class Fate(Enum):
    """What becomes of a command."""

    ANSWERED = auto()
    UNSENT = auto()
    """It never arrived."""
    UNANSWERED = auto()
    """Redis ran it, and the reply was lost."""


class Operation:
    """A piece of work on a thread of its own. It and whoever steers it take turns: never do both run."""

    def __init__(self, work: Callable[[], object]) -> None:
        """Begins, and stops before the first command."""
        self.done = False
        self._work, self._fate, self._free, self._dead = work, Fate.ANSWERED, False, False
        self._failure: BaseException | None = None
        self._go, self._stopped = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._stopped.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def go(self, commands: int) -> None:
        """Let so many commands through; raises what the work raises."""
        self._free = commands >= ALL
        while commands and not self.done:
            self._resume(Fate.ANSWERED)
            commands -= 1

    def disconnect(self, fate: Fate) -> None:
        """The connection breaks at this command; the operation makes of it what it can, up to its next one."""
        if not self.done:
            self._resume(fate)

    def kill(self, fate: Fate) -> None:
        """The process dies at this command."""
        self._dead = True
        if not self.done:
            self._resume(fate)

    def carry(self, send: Callable[[], T]) -> T:
        """Send a command; called on the operation's own thread."""
        if not self._dead and not self._free:
            self._stopped.release()
            self._go.acquire()
        fate, self._fate = self._fate, Fate.ANSWERED
        if fate is Fate.ANSWERED and not self._dead:
            return send()
        if fate is Fate.UNANSWERED:
            with suppress(ResponseError):
                send()
        raise Killed if self._dead else LostConnection("the connection broke")

    def _resume(self, fate: Fate) -> None:
        self._fate = fate
        self._go.release()
        self._wait()

    def _wait(self) -> None:
        if not self._stopped.acquire(timeout=PATIENCE):
            raise TimeoutError("an operation neither ends nor sends a command")
        if self.done:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        _here.operation = self
        try:
            self._work()
        except Killed:
            pass
        except BaseException as failure:
            self._failure = failure
        finally:
            self.done = True
            self._stopped.release()


_here: Any = threading.local()


def carry(send: Callable[[], T]) -> T:
    """Send a command as the operation of this thread, if it is one's."""
    operation: Operation | None = getattr(_here, "operation", None)
    return operation.carry(send) if operation else send()
