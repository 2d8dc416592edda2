"""More clients than a fleet can serve: each comes at its own time, whatever became of the others, and obeys a 429."""

from __future__ import annotations

import heapq
import json
import threading
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from models.step import Sampling
from worker.script import say

TOKENS = 20
ASKING = 160
"""Requests under way at once, at most."""
PATIENCE = 180.0
"""Seconds in which an accepted job is to end."""


def ask(address: str, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], Any]:
    """One request on a connection of its own: (status, headers, JSON)."""
    parts = urlsplit(address)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=90)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", "Connection": "close"})
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, json.loads(answer.read())
    finally:
        connection.close()


@dataclass
class Visitor:
    """One client, who comes again when it is told to."""

    number: int
    at: float
    """When it is to come next, time.monotonic."""
    refused: list[tuple[float, int]] = field(default_factory=list)
    """When it was refused, and the seconds it was told."""
    admitted: float = 0.0

    def __str__(self) -> str:
        return f"visitor {self.number}"

    @property
    def prompt(self) -> str:
        """One of few: a tokenizer remembers words, and here each prompt is one."""
        return f"visitor {self.number % 50}"

    def asked(self) -> dict[str, Any]:
        """The request; another for each visitor."""
        sampling = {"do_sample": True, "seed": self.number}
        return {
            "inputs": self.prompt,
            "parameters": {"max_new_tokens": TOKENS, "ignore_eos": True, **sampling},
        }

    @property
    def text(self) -> str:
        """What the scripted model answers."""
        sampling = Sampling(do_sample=True, seed=self.number)
        return bytes(say(self.prompt.encode(), sampling, TOKENS)).decode(errors="replace")

    def body(self) -> bytes:
        return json.dumps(self.asked()).encode()


class Crowd:
    """Visitors by a rate, to the gateways in turn; every accepted job is waited for and its text compared."""

    def __init__(self, addresses: Sequence[str], waiting: int) -> None:
        """`waiting`: jobs that may be open at once."""
        self.visitors: list[Visitor] = []
        self.wrong: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.done = 0
        self.gone = 0
        """Visitors who were told to come after closing time."""
        self.late = 0.0
        """The longest that a request was begun after its time, s: what is measured holds if it is short."""
        self._addresses = addresses
        self._lock = threading.Lock()
        self._coming: list[tuple[float, int, Visitor]] = []
        self._numbers = count()
        self._asking = ThreadPoolExecutor(ASKING, "ask")
        self._waiting = ThreadPoolExecutor(waiting, "wait")

    def close(self) -> None:
        """Wait for every job that was accepted."""
        self._asking.shutdown()
        self._waiting.shutdown()

    def keep(self, open_jobs: int, seconds: float) -> float:
        """So many jobs open for so long: jobs done per second in the second half of it."""
        end, began = time.monotonic() + seconds, (0.0, 0)
        while (now := time.monotonic()) < end:
            if not began[0] and now > end - seconds / 2:
                began = (now, self.done)
            while len(self.visitors) - self.done - len(self.wrong) < open_jobs:
                self._send(self._new(now), end=0.0)
            time.sleep(0.005)
        return (self.done - began[1]) / (time.monotonic() - began[0])

    def offer(self, rate: float, seconds: float) -> None:
        """Visitors come at this rate for so long; who is told to come again before closing time does so."""
        now = time.monotonic()
        end, due = now + seconds, now
        while (now := time.monotonic()) < end:
            while due <= now:
                self._send(self._new(due), end)
                due += 1 / rate
            with self._lock:
                while self._coming and self._coming[0][0] <= now:
                    self._send(heapq.heappop(self._coming)[2], end)
            time.sleep(0.002)

    def _new(self, at: float) -> Visitor:
        visitor = Visitor(next(self._numbers), at)
        self.visitors.append(visitor)
        return visitor

    def _send(self, visitor: Visitor, end: float) -> None:
        self._asking.submit(self._guard, visitor, lambda: self._ask(visitor, end))

    def _guard(self, visitor: Visitor, what: Callable[[], None]) -> None:
        try:
            what()
        except (OSError, HTTPException, ValueError, KeyError, AssertionError) as error:
            with self._lock:
                self.wrong.append(f"{visitor}: {error!r}")

    def _ask(self, visitor: Visitor, end: float) -> None:
        late = time.monotonic() - visitor.at
        address = self._addresses[(visitor.number + len(visitor.refused)) % len(self._addresses)]
        status, headers, answer = ask(address, "POST", "/jobs", visitor.body())
        now = time.monotonic()
        with self._lock:
            self.late = max(self.late, late)
            self.statuses[status] += 1
            if status == 202:
                visitor.admitted = now
                self._waiting.submit(self._guard, visitor, lambda: self._wait(visitor, address, answer["id"]))
                return
            assert status == 429, f"{status} {answer}"
            told = int(headers["retry-after"])
            visitor.refused.append((now, told))
            visitor.at = now + told
            if visitor.at < end:
                heapq.heappush(self._coming, (visitor.at, visitor.number, visitor))
            else:
                self.gone += 1

    def _wait(self, visitor: Visitor, address: str, job: str) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            status, _, seen = ask(address, "GET", f"/jobs/{job}?wait=30")
            assert status == 200, f"{status} {seen}"
            if seen["status"] not in ("queued", "in_progress"):
                break
        text = (seen["result"] or {}).get("text")
        assert seen["status"] == "completed" and text == visitor.text, f"{seen['status']} {text!r}"
        with self._lock:
            self.done += 1


def truths(visitors: Sequence[Visitor]) -> list[tuple[int, float]]:
    """(Seconds told, seconds in truth) of each first refusal whose truth is known.

    The truth is a line: whoever is refused stands behind all who were refused before and have not come in yet, and
    their turn is when so many more and they themselves have been given a place.
    """
    admissions = sorted(v.admitted for v in visitors if v.admitted)
    refused = sorted((v for v in visitors if v.refused), key=lambda v: v.refused[0])
    came_in = sorted(v.admitted for v in refused if v.admitted)
    found = []
    for before, visitor in enumerate(refused):
        at, told = visitor.refused[0]
        # Whoever came in by now was refused before now.
        ahead = before - bisect(came_in, at)
        turn = bisect(admissions, at) + ahead
        if turn < len(admissions):
            found.append((told, admissions[turn] - at))
    return found
