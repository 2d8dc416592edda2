"""Streams and events: who may rely on what, and copies that arrive in host memory only once somebody has waited.

Work runs when it is issued; what is kept is the order that a real card would guarantee. A stream knows of another only
what it has waited for. To read what is not known to be written, or to overwrite what may still be read, is an error.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .ledger import LEDGER
from .memory import MEMORY

Known = dict[int, int]
"""Stream → how far it is known to have come."""

_SOONEST = -(2**7) + 1
"""What poisoned integers hold: in every dtype a number that no token, slot or length is."""


def poison(host: Tensor) -> None:
    """Fill it with what nobody can mistake for a result."""
    if host.dtype.is_floating_point:
        host.fill_(float("nan"))
    elif host.dtype is torch.bool:
        host.logical_not_()
    else:
        host.fill_(_SOONEST if host.dtype.is_signed else 2**7 - 1)


def _merge(into: Known, other: Known) -> None:
    for stream, now in other.items():
        into[stream] = max(into.get(stream, 0), now)


@dataclass(frozen=True, slots=True)
class Stamp:
    """When: the stream, and its count."""

    stream: int
    now: int


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    """One to the host that nobody has waited for."""

    when: Stamp
    to: Tensor
    values: Tensor


class Stream:
    """A queue of work; the device is ignored, for a process has one."""

    _ids = itertools.count()

    def __init__(self, device: object = None, priority: int = 0) -> None:
        self._id = next(self._ids)
        self.device = torch.device("hpu", 0)
        self.now = 0
        self.known: Known = {}

    def id(self) -> int:
        """Its number."""
        return self._id

    def tick(self, host: Known) -> Stamp:
        """One more piece of work, after all that the host has waited for."""
        _merge(self.known, host)
        self.now += 1
        return Stamp(self._id, self.now)

    def knows(self, when: Stamp) -> bool:
        """Whether what happened then is over before this stream's next work."""
        return when.stream == self._id or self.known.get(when.stream, 0) >= when.now

    @property
    def past(self) -> Known:
        """All that is over once its work is."""
        return {**self.known, self._id: self.now}

    def wait_event(self, event: Event) -> None:
        """Its next work comes after what the event has seen."""
        _merge(self.known, event.seen)

    def wait_stream(self, stream: Stream) -> None:
        """Its next work comes after all that the other has been given."""
        _merge(self.known, stream.past)

    def record_event(self, event: Event | None = None) -> Event:
        """An event at this point."""
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        """Whether its work is over: never at once, so that nobody relies on it."""
        return TIME.asked(self.past)

    def synchronize(self) -> None:
        """The host waits."""
        LEDGER.synced("Stream.synchronize")
        TIME.wait(self.past)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other._id == self._id

    def __hash__(self) -> int:
        return self._id


class Event:
    """A point in a stream."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.seen: Known = {}
        self._at = 0.0 if enable_timing else None

    def record(self, stream: Stream | None = None) -> None:
        """The current stream's, or that stream's, work so far."""
        self.seen = (stream or TIME.current).past
        if self._at is not None:
            self._at = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        """The stream's next work comes after it."""
        (stream or TIME.current).wait_event(self)

    def query(self) -> bool:
        """Whether it is over: never at once, so that nobody relies on it."""
        return TIME.asked(self.seen)

    def synchronize(self) -> None:
        """The host waits for it."""
        TIME.wait(self.seen)

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds between two events that were made with enable_timing."""
        if self._at is None or end_event._at is None:
            raise RuntimeError("both events must be created with enable_timing=True")
        return 1000 * (end_event._at - self._at)


class Time:
    """All streams of the process, and what its host has waited for."""

    def __init__(self) -> None:
        self.host: Known = {}
        self.default = self.current = Stream()
        self._issued: Known = {}
        self._copies: list[_Copy] = []
        self._written: dict[int, Stamp] = {}
        self._read: dict[int, Stamp] = {}
        """By copies to the host."""
        MEMORY.on_free.append(self._forget)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """Work goes to that stream."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def launch(self, reads: Iterable[int], writes: Iterable[int]) -> Stamp:
        """Work of the current stream on these allocations; RuntimeError for a race."""
        when = self.current.tick(self.host)
        self._issued[when.stream] = when.now
        self._check(self._written, reads, "reads what another stream may not have written yet")
        self._check(self._written, writes, "overwrites what another stream may still be writing")
        self._check(self._read, writes, "overwrites what another stream may still be reading")
        self._written.update(dict.fromkeys(writes, when))
        return when

    def copy_out(self, values: Tensor, at: int, to: Tensor) -> None:
        """A copy to the host that it can rely on after waiting, and which is poison until then."""
        when = self.launch((at,), ())
        self._read[at] = when
        self._copies.append(_Copy(when, to, values))
        poison(to)

    def wait(self, past: Known) -> None:
        """The host waits for all of it."""
        LEDGER.waits += 1
        self._over(past)

    def wait_for_current(self) -> None:
        """The host waits for the stream that it has just given a blocking copy."""
        self._over(self.current.past)

    def wait_for_all(self) -> None:
        """The host waits for the card."""
        self.wait(self._issued)

    def asked(self, past: Known) -> bool:
        """Whether it was over when the host last looked; now it is."""
        over = all(self.host.get(stream, 0) >= now for stream, now in past.items())
        self._over(past)
        return over

    def _over(self, past: Known) -> None:
        _merge(self.host, past)
        arrived = [copy for copy in self._copies if self.host.get(copy.when.stream, 0) >= copy.when.now]
        with torch.inference_mode():  # in which any tensor may be written
            for copy in arrived:
                copy.to.copy_(copy.values)
        self._copies = [copy for copy in self._copies if copy not in arrived]

    def _check(self, stamps: dict[int, Stamp], addresses: Iterable[int], what: str) -> None:
        for at in addresses:
            if (stamp := stamps.get(at)) is not None and not self.current.knows(stamp):
                raise RuntimeError(
                    f"stream {self.current.id()} {what}: stream {stamp.stream}. Wait for it first."
                )

    def _forget(self, at: int) -> None:
        self._written.pop(at, None)
        self._read.pop(at, None)


TIME = Time()
