"""Workers that are stopped while they wait for jobs, are sent some, and never wake: none of these may be lost.

    python -m tests.chaos.frozen --jobs 1000

What a queue that hands a message to whoever waits would lose. In each round all workers are idle; jobs come, through a
gateway and from a plain Celery producer in turn, and somewhere among them every worker is stopped (SIGSTOP), so that
some are stopped with a pop on its way. Then all are killed (kill -9) and others started, which have to finish every
job. Prints a report; 1 if one is lost, or has another text than it should.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from celery import Celery

from sagrada.embedded import EmbeddedServer
from tests.chaos.crowd import Visitor, ask
from tests.chaos.storm import remains
from tests.support.fleet import Fleet
from tests.support.processes import until
from wire.keys import TASK_NAME, UNACKED_PREFIX, queue_of
from wire.ledger import Ledger

LEASE = 1.0
WORKERS = 4
ROUND = 50
"""Jobs of one round."""
SETTLE = 120.0
"""Seconds in which a round's jobs are to end: killed workers' leases have to, and others to start."""


@dataclass
class Outcome:
    """What happened."""

    seed: int
    jobs: int = 0
    frozen: int = 0
    """Workers stopped and killed."""
    held: int = 0
    """Jobs that a stopped worker had in its hands."""
    lost: list[str] = field(default_factory=list)

    def report(self) -> str:
        """For people."""
        lines = [
            f"frozen workers of {datetime.now(UTC):%Y-%m-%d}, seed {self.seed}: {self.jobs} jobs,"
            f" {self.frozen} workers stopped while idle and killed, with {self.held} jobs in their hands",
            f"  lost or different: {len(self.lost)}",
            *(f"  WRONG {each}" for each in self.lost[:20]),
        ]
        return "\n".join(lines)


class Rounds:
    """One after another on the same fleet."""

    def __init__(self, fleet: Fleet, outcome: Outcome) -> None:
        self._fleet, self._outcome = fleet, outcome
        self._dice = random.Random(f"frozen {outcome.seed}")
        self._ledger = Ledger(fleet.redis)
        self._plain = Celery(broker=fleet.redis_url, backend=fleet.redis_url, set_as_current=False)

    def close(self) -> None:
        """Hang up."""
        self._plain.close()

    def run(self, jobs: int) -> None:
        """Stop, send, kill; then let others do it."""
        sent: dict[str, Visitor] = {}
        early = self._dice.randint(0, min(jobs, 4))
        for _ in range(early):
            self._send(sent)
        time.sleep(self._dice.choice([0.0, self._dice.uniform(0, 0.005)]))
        for worker in self._fleet.workers:
            worker.send_signal(signal.SIGSTOP)
        for _ in range(jobs - early):
            self._send(sent)
        redis = self._fleet.redis
        self._outcome.held += sum(int(redis.hlen(key)) for key in redis.scan_iter(UNACKED_PREFIX + "*"))
        self._replace()
        self._finished(sent)

    def _send(self, sent: dict[str, Visitor]) -> None:
        visitor = Visitor(self._outcome.jobs, 0.0)
        self._outcome.jobs += 1
        if self._outcome.jobs % 2:
            status, _, answer = ask(self._fleet.url, "POST", "/jobs", visitor.body())
            assert status == 202, f"{status} {answer}"
            sent[answer["id"]] = visitor
        else:
            task = self._plain.send_task(TASK_NAME, kwargs=visitor.asked(), queue=queue_of("scripted"))
            sent[task.id] = visitor

    def _replace(self) -> None:
        killed = self._fleet.workers[:]
        for worker in killed:
            self._fleet.engine_of(worker)  # so that the fleet sees to it that none is left over
            worker.kill()
        for worker in killed:
            worker.wait()
            self._fleet.workers.remove(worker)
            self._fleet.start_worker()
        self._outcome.frozen += len(killed)

    def _finished(self, sent: dict[str, Visitor]) -> None:
        with suppress(AssertionError):
            until(lambda: all(map(self._ended, sent)), SETTLE, "every job to end")
        for job, visitor in sent.items():
            record = self._ledger.record(job)
            text = record.result.text if record and record.result else None
            if text != visitor.text:
                self._outcome.lost.append(f"job {job}: {record.state if record else 'unknown'}, {text!r}")
        with suppress(AssertionError):
            until(lambda: not remains(self._fleet.redis, "scripted"), SETTLE, "every message to be acked")
        if left := remains(self._fleet.redis, "scripted"):
            self._outcome.lost.append(f"left behind: {left}")
        self._fleet.ready()

    def _ended(self, job: str) -> bool:
        record = self._ledger.record(job)
        return bool(record and record.terminal)


def frozen(folder: Path, seed: int, jobs: int) -> Outcome:
    """The whole of it."""
    outcome = Outcome(seed)
    (folder / "logs").mkdir()
    with ExitStack() as stack:
        server = EmbeddedServer(folder / "redis")
        server.start()
        stack.callback(server.stop)
        settings = {"SERVED_MODEL_NAME": "scripted"}
        fleet = stack.enter_context(
            Fleet(server.url, folder / "logs", workers=WORKERS, lease=LEASE, env=settings)
        )
        fleet.ready()
        rounds = Rounds(fleet, outcome)
        stack.callback(rounds.close)
        while outcome.jobs < jobs and not outcome.lost:
            rounds.run(min(ROUND, jobs - outcome.jobs))
        if outcome.lost:
            print(fleet.tail(15), file=sys.stderr)
    return outcome


def main() -> int:
    """As many jobs as asked for; the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = frozen(Path(folder), options.seed, options.jobs)
    print(outcome.report())
    return 1 if outcome.lost else 0


if __name__ == "__main__":
    sys.exit(main())
