"""Many clients, two gateways, three workers with the demo model in float64, and faults by a seed.

    python -m tests.chaos.storm --minutes 10 --seed 1

Every stream is compared, event by event, with a run that nothing disturbed. Prints a report; 1 if anything was lost,
missing, doubled, out of order or different.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis

from sagrada.embedded import EmbeddedServer
from tests.chaos.clients import Answers, Client, Wish, Wrong
from tests.chaos.faults import LEASE, Faults
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.proxy import Proxy
from wire import keys

BEGINNINGS = (
    "Once upon a time",
    "One day, Lily went to",
    "Q: What color is the sky?\nA:",
    "def factorial(n):",
    "The",
)
SETTLE = 120.0
"""Seconds after the storm in which what clients left behind is to end."""


@dataclass
class Outcome:
    """What happened."""

    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    left: str = ""
    """What was still there when all clients had gone."""

    @property
    def jobs(self) -> int:
        return sum(self.counts[way] for way in ("stream", "poll", "slow", "cancel", "bound", "leave", "best"))

    def report(self) -> str:
        """For people."""
        ways = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        faults = ", ".join(f"{name} {count}" for name, count in self.faults.most_common())
        lines = [
            f"storm of {datetime.now(UTC):%Y-%m-%d}, seed {self.seed}: {self.jobs} jobs in {self.seconds:.0f} s",
            f"  clients: {ways}",
            f"  faults ({self.faults.total()}): {faults}",
            f"  lost, missing, doubled, reordered or different: {len(self.wrong)}",
            f"  left behind: {self.left or 'nothing'}",
            *(f"  WRONG {each}" for each in self.wrong[:20]),
        ]
        return "\n".join(lines)


def wishes(seed: int, count: int) -> list[Wish]:
    """Short and long, greedy and sampled, of one choice and of several."""
    dice = random.Random(f"wishes {seed}")
    return [
        Wish(
            " ".join(dice.choices(BEGINNINGS, k=dice.choice([1, 1, 2, 8]))),
            dice.choice([1, 2, 4, 8, 16, 32, 64]),
            dice.choice([None, dice.randrange(2**32)]),
            dice.choice([1, 1, 1, 2, 4]),
        )
        for _ in range(count)
    ]


def undisturbed(fleet: Fleet, seed: int, count: int) -> Answers:
    """So many wishes, and the answer to each while all is calm."""
    found: dict[Wish, list[dict[str, Any]]] = {}

    def ask(wish: Wish) -> None:
        client = Client([fleet.url], {}, random.Random(0))
        found[wish] = client.answer(wish)
        client.close()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, wishes(seed, count)))
    return found


def rage(fleet: Fleet, faults: Faults, outcome: Outcome, seconds: float, clients: int) -> None:
    """Clients and faults for so long, then clients alone until each has its answer."""
    answers = undisturbed(fleet, outcome.seed, 3 * clients)
    began = time.monotonic()
    over = threading.Event()
    lock = threading.Lock()

    def busy(number: int) -> None:
        client = Client(fleet.addresses, answers, random.Random(f"client {outcome.seed} {number}"))
        while not over.is_set():
            try:
                client.one()
            except Wrong as wrong:
                with lock:
                    outcome.wrong.append(str(wrong))
        client.close()
        with lock:
            outcome.counts += client.counts

    with ThreadPoolExecutor(clients) as threads:
        running = [threads.submit(busy, number) for number in range(clients)]
        try:
            faults.rage(seconds)
        finally:
            over.set()
        for each in running:
            each.result()
    outcome.seconds, outcome.faults = time.monotonic() - began, faults.counts


def remains(client: Redis, model: str = "demo") -> str:
    """What is queued, unacked or open; empty if nothing is."""
    redis: Any = client
    unacked = list(redis.scan_iter(keys.UNACKED_PREFIX + "*"))
    found = {
        "open": redis.zcard(keys.OPEN),
        "queued": redis.zcard(keys.queue_keys(keys.queue_of(model))[0]),
        "unacked": sum(redis.hlen(key) for key in unacked),
    }
    return ", ".join(f"{count} {name}" for name, count in found.items() if count)


def storm(folder: Path, seed: int, seconds: float, clients: int) -> Outcome:
    """The whole of it: start everything, rage, wait until nothing is left."""
    outcome = Outcome(seed)
    (folder / "logs").mkdir()
    with ExitStack() as stack:
        server = EmbeddedServer(folder / "redis")
        server.start()
        stack.callback(server.stop)
        proxy = stack.enter_context(Proxy(server.port))
        url = f"redis://127.0.0.1:{proxy.port}/0"
        fleet = stack.enter_context(
            Fleet(
                server.url,
                folder / "logs",
                model="demo",
                workers=3,
                gateways=2,
                lease=LEASE,
                env={"DTYPE": "float64", "SLOTS": "16", "OMP_NUM_THREADS": "1"},
                urls={"worker": url, "gateway": url},
            )
        )
        fleet.ready()
        rage(fleet, Faults(fleet, server, proxy, seed), outcome, seconds, clients)
        try:
            until(lambda: not remains(fleet.redis), SETTLE, "every job to end and every message to be acked")
        except AssertionError:
            outcome.left = remains(fleet.redis)
        if outcome.wrong or outcome.left:
            print(fleet.tail(15), file=sys.stderr)
    return outcome


def main() -> int:
    """One storm; its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument(
        "--keep", type=Path, help="a new folder for logs and Redis's data; default: none is kept"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = options.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        outcome = storm(kept, options.seed, 60 * options.minutes, options.clients)
    print(outcome.report())
    return 1 if outcome.wrong or outcome.left else 0


if __name__ == "__main__":
    sys.exit(main())
