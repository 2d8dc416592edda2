"""Five times what the fleet can do: who is accepted gets everything, who is refused hears the truth, nothing grows.

    python -m tests.chaos.overload --seconds 60 --times 5

Redis, two gateways, two workers with the scripted model. First so many jobs are kept open that no slot is idle: what
is done per second is the capacity. Then clients come at a multiple of that, each at its own time; who is refused comes
again after its Retry-After, if that is before the end, and otherwise not at all. Memory is judged over the last
`--seconds`: in a rush at the beginning, and in the `--warm` ones, threads, connections and the allocator's arenas come
into being.

What a Retry-After is held to: those who are refused form a line, and one's turn is when everyone who was refused before
and oneself have been given a place. Clients know of no line; but if they are told less, most come in vain, and if they
are told more, places stay empty. The header counts whole seconds, so that a second too much is always right. Beside
that it is counted how many of those who came when they were told got in at once.

Prints a report; 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis

from bench.hardware import hardware
from sagrada.embedded import EmbeddedServer
from tests.chaos.crowd import Crowd, truths
from tests.chaos.storm import remains
from tests.support.fleet import Fleet
from tests.support.memory import Scales, resident
from tests.support.processes import children, until

STEP = 0.02
SLOTS = 8
ROOM = 200
"""Jobs that may wait."""
CALIBRATE = 15.0
RESULT_TTL = 5.0
"""Short, so that in Redis as many jobs expire as end."""
STEEPEST = 1.0
"""MB per 1,000 jobs that count as flat."""
SETTLE = 120.0


@dataclass
class Outcome:
    """What happened."""

    seconds: float
    warm: float
    times: float
    capacity: float = 0.0
    """Jobs per second before the overload."""
    offered: int = 0
    accepted: int = 0
    refused: int = 0
    """Answers, not clients."""
    drained: float = 0.0
    """Jobs done per second of overload."""
    done: int = 0
    late: float = 0.0
    told: list[tuple[int, float]] = field(default_factory=list)
    """Retry-After and truth, s."""
    returned: int = 0
    """Clients who came again when they were told to."""
    at_once: int = 0
    """Of these, who was let in the first time."""
    waited: list[float] = field(default_factory=list)
    """What those who came in had waited, over what they were told at first."""
    jumped: int = 0
    """Who was let in at the first try while others stood in line."""
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Process → MB at the end, MB per 1,000 jobs."""
    wrong: list[str] = field(default_factory=list)
    left: str = ""

    @property
    def true(self) -> float:
        """The share of refusals that were told half to twice the truth, or at most a second too much."""
        right = sum(truth / 2 <= told <= max(2 * truth, truth + 1) for told, truth in self.told)
        return right / max(1, len(self.told))

    def faults(self, least_true: float = 0.95, steepest: float = STEEPEST) -> list[str]:
        """What is not as it should be."""
        found = [*self.wrong[:20], *([f"left behind: {self.left}"] if self.left else [])]
        if self.done != self.accepted:
            found.append(f"{self.accepted} were accepted, {self.done} ended as they should")
        if self.true < least_true:
            found.append(f"only {self.true:.0%} of the refused were told the truth")
        for name, (_, slope) in self.memory.items():
            if slope >= steepest:
                found.append(f"{name} grows by {slope:.2f} MB per 1,000 jobs")
        return found

    def report(self) -> str:
        """For people."""
        ratios = [told / truth for told, truth in self.told if truth > 1] or [0.0]
        low, high = (sorted(ratios)[int(share * (len(ratios) - 1))] for share in (0.05, 0.95))
        faults, waited = self.faults(), self.waited or [0.0]
        lines = [
            f"overload of {datetime.now(UTC):%Y-%m-%d}: {self.times:g} times the capacity"
            f" for {self.warm + self.seconds:g} s",
            f"  capacity {self.capacity:.1f} jobs/s, drained {self.drained:.1f} jobs/s; {self.offered} clients came,"
            f" at most {self.late:.2f} s late; {self.refused} answers were 429",
            f"  accepted {self.accepted}, finished exactly {self.done}; left behind: {self.left or 'nothing'}",
            f"  Retry-After over truth: median {statistics.median(ratios):.2f}, p5 {low:.2f}, p95 {high:.2f}"
            f" ({len(ratios)} with more than 1 s); within 2x, or a second more: {self.true:.1%} of {len(self.told)}",
            f"  came again when told: {self.returned}, let in at once {self.at_once};"
            f" let in past the line: {self.jumped};"
            f" waited over told at first: median {statistics.median(waited):.2f}, longest {max(waited):.2f}",
            *(
                f"  {name}: {mb:.1f} MB, {slope:+.2f} MB per 1,000 jobs"
                for name, (mb, slope) in self.memory.items()
            ),
            f"  (memory: of the last {self.seconds:g} s)",
            *(f"  WRONG {fault}" for fault in faults),
        ]
        return "\n".join(lines)


def weights(fleet: Fleet, server: EmbeddedServer) -> dict[str, Callable[[], float]]:
    """How to weigh each process."""
    redis: Any = fleet.redis
    found: dict[str, Callable[[], float]] = {}
    for number, gateway in fleet.gateways.items():
        found[f"gateway {number}, gunicorn's master"] = partial(resident, gateway.pid)
        for pid in children(gateway.pid):
            found[f"gateway {number}"] = partial(resident, pid)
    for number, worker in enumerate(fleet.workers):
        found[f"worker {number}"] = partial(resident, worker.pid)
        found[f"engine {number}"] = partial(resident, fleet.engine_of(worker))
    assert server.child is not None
    found["Redis"] = partial(resident, server.child.pid)
    found["Redis, used_memory"] = lambda: float(redis.info("memory")["used_memory"]) / 1e6
    return found


def press(fleet: Fleet, server: EmbeddedServer, outcome: Outcome) -> None:
    """Find the capacity, offer more than that, wait for all that was accepted."""
    crowd = Crowd(fleet.addresses, ROOM + 200)
    try:
        for _ in range(3):
            crowd.keep(ROOM, 1.0)  # so many at once that every thread of the gateways has had something to do
            until(lambda: crowd.done + len(crowd.wrong) == len(crowd.visitors), SETTLE, "the rush to end")
        outcome.capacity = crowd.keep(4 * SLOTS * 2, CALIBRATE)
        first = len(crowd.visitors)
        with Scales(lambda: crowd.done, weights(fleet, server)) as scales:
            done, began = crowd.done, time.monotonic()
            crowd.offer(outcome.times * outcome.capacity, outcome.warm + outcome.seconds)
            outcome.drained = (crowd.done - done) / (time.monotonic() - began)
    finally:
        crowd.close()
    came = crowd.visitors[first:]
    outcome.offered, outcome.late, outcome.wrong = len(came), crowd.late, crowd.wrong
    outcome.accepted, outcome.refused = crowd.statuses[202], crowd.statuses[429]
    outcome.done, outcome.told = crowd.done, truths(came)
    again = [v for v in came if v.refused and (v.admitted or len(v.refused) > 1)]
    outcome.returned = len(again)
    outcome.at_once = sum(bool(v.admitted) and len(v.refused) == 1 for v in again)
    outcome.waited = [
        (v.admitted - v.refused[0][0]) / v.refused[0][1] for v in again if v.admitted and v.refused[0][1] > 1
    ]
    began = min((v.refused[0][0] for v in came if v.refused), default=float("inf"))
    outcome.jumped = sum(bool(v.admitted) and not v.refused and v.admitted > began for v in came)
    outcome.memory = scales.slopes(int(outcome.warm))


def overload(folder: Path, seconds: float, warm: float, times: float) -> Outcome:
    """The whole of it: start everything, press, wait until nothing is left."""
    outcome = Outcome(seconds, warm, times)
    (folder / "logs").mkdir()
    settings = {
        "SERVED_MODEL_NAME": "scripted",
        "SLOTS": str(SLOTS),
        "MAX_QUEUED": str(ROOM),
        "RESULT_TTL": str(RESULT_TTL),
    }
    with ExitStack() as stack:
        server = EmbeddedServer(folder / "redis")
        server.start()
        stack.callback(server.stop)
        fleet = stack.enter_context(
            Fleet(
                server.url,
                folder / "logs",
                model=f"scripted?step={STEP}",
                workers=2,
                gateways=2,
                env=settings,
            )
        )
        press(fleet.ready(), server, outcome)
        outcome.left = _left(fleet.redis)
        if outcome.faults():
            print(fleet.tail(15), file=sys.stderr)
    return outcome


def _left(redis: Redis) -> str:
    with suppress(AssertionError):
        until(
            lambda: not remains(redis, "scripted"), SETTLE, "every job to end and every message to be acked"
        )
    return remains(redis, "scripted")


def main() -> int:
    """One overload; its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm", type=float, default=60.0, help="seconds of overload before that")
    parser.add_argument("--times", type=float, default=5.0)
    options = parser.parse_args()
    print(hardware("celery", "redis"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = overload(Path(folder), options.seconds, options.warm, options.times)
    print(outcome.report())
    return 1 if outcome.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
