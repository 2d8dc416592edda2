"""Random walks over the real scripts and real Boots, driven by hand: no thread, no lease that ends by itself.

A command may fail before or after Redis has run it, a worker may die between any two, replies to pops get lost,
leases end, reapers reap. In between, `misplaced` looks for messages that are nowhere, twice, or with nobody;
`settle` ends all disturbance and demands that every task is done and nothing remains.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisError

from wire.keys import DEAD, LIVE, UNACKED_PREFIX, queue_keys
from wire.queue import POP, Boots, Delivery, Popped, Record, TaskQueue, pop_args, stock_lists
from worker import boot as boots
from worker.reaper import Reaper

LEASE = 1000.0
QUEUES = ("sagrada.a", "sagrada.b")


class FlakyRedis(Redis):
    """Loses its connection before or after a command with probability `risk`; others act before it as often."""

    dice: random.Random
    risk = 0.0
    meanwhile: Callable[[], Any]

    def execute_command(self, *args: Any, **options: Any) -> Any:
        fate = self.dice.random()
        if self.dice.random() < self.risk:
            self.meanwhile()
        if fate < self.risk / 2:
            raise LostConnection("before the command")
        answer = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        if fate < self.risk:
            raise LostConnection("after the command")
        return answer


class Process:
    """One worker: its Boot, and the jobs that Celery and the pool have in hand."""

    def __init__(self, url: str, dice: random.Random, clock: Callable[[], float]) -> None:
        redis = FlakyRedis.from_url(url)
        assert isinstance(redis, FlakyRedis)  # which redis-py does not say
        self.dice, self.jobs, self.redis = dice, dict[str, str](), redis
        self.redis.dice, self.redis.meanwhile = dice, self.be_reaped
        self.calm = Redis(connection_pool=self.redis.connection_pool)
        self.boot = boots.Boot(url, LEASE)
        self.boot._redis = self.boot._boots.redis = self.redis
        self.boot._reaper = Reaper(self.redis, LEASE, clock)
        self.boot._reaper._boots.reap = partial(self.boot._reaper._boots.reap, most=2)  # type: ignore[method-assign]
        self.boot.on_elsewhere = self._elsewhere
        for queue in QUEUES:
            self.boot.watch(queue)

    def _elsewhere(self, tasks: list[str]) -> None:
        """Let half of them go, finish the others (the ledger's fence decides in real life)."""
        for tag, task in list(self.jobs.items()):
            if task in tasks and self.dice.random() < 0.5:
                del self.jobs[tag]
                self.boot.drop(tag)

    def expire(self) -> None:
        self.calm.zadd(LIVE, {self.boot.id: 0}, xx=True)

    def be_reaped(self) -> None:
        """This process is away for longer than a lease, and another one notices."""
        self.expire()
        Boots(self.calm).reap(declare=True, most=self.dice.randint(0, 2))

    def turn(self) -> None:
        self.boot._next_tick = 0.0
        try:
            self.boot._turn()
        except RedisError:
            self.boot._reaper.disturbed()

    def pop(self, most: int, lose: float) -> None:
        """As the transport does it; with probability `lose` the reply dies with the connection."""
        ask = self.boot.ask()
        queues = self.dice.sample(QUEUES, len(QUEUES))
        reply = POP(self.calm, *pop_args(ask.boot, most, ask.resync, queues))
        if self.dice.random() < lose:
            self.disconnect()
        elif reply is None:
            self.boot.lost(ask.boot)
        else:
            self._receive(ask.boot, ask, Popped(*reply))

    def _receive(self, boot: str, ask: Any, popped: Popped) -> None:
        if self.dice.random() < 0.1:
            self.turn()  # the boot's thread comes in between
        for records, fresh in ((popped.owned, False), (popped.taken, True)):
            for record in map(Record.parse, records):
                delivery = Delivery(boot, record.queue, record.task, record.tag)
                if self.boot.take(delivery, fresh):
                    assert record.tag not in self.jobs, "started twice in one process"
                    self.jobs[record.tag] = record.task
                    if self.dice.random() < 0.8:
                        self.boot.mark_running(record.tag)
        self.boot.answered(ask, popped)

    def disconnect(self) -> None:
        """Celery's connection breaks: what was not running is dropped, and is to be delivered again."""
        self.boot.resync()
        self.boot.forget_idle(list(self.jobs))
        self.jobs = {tag: task for tag, task in self.jobs.items() if self.boot.holds(tag)}

    def settle(self, how: str) -> str | None:
        """Ack or restore some job; the task that was acked."""
        if not self.jobs:
            return None
        tag = self.dice.choice(sorted(self.jobs))
        task = self.jobs.pop(tag)
        getattr(self.boot, how)(tag)
        return task if how == "ack" else None


def _lists(queue: str) -> list[str]:
    return stock_lists(queue)[::4]


class Walk:
    """A fleet of two workers, tasks, and what may go wrong."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.dice = url, random.Random(seed)
        self.redis: Any = Redis.from_url(url, decode_responses=True)
        self.redis.flushall()
        self.time, self.number, self.acked = 0.0, 0, set[str]()
        self.tasks: dict[str, str] = {}
        self.processes: list[Process] = []
        self.workers = [self._spawn(), self._spawn()]

    def _spawn(self) -> Process:
        process = Process(self.url, self.dice, self._clock)
        process.turn()
        process.redis.risk = 0.15
        self.processes.append(process)
        return process

    def _clock(self) -> float:
        self.time += 3 * LEASE
        return self.time

    def step(self) -> None:
        worker, other = self.dice.sample(self.workers, 2)
        moves: dict[Callable[[], Any], int] = {
            self._put: 3, self._put_stock: 1, self._put_twice: 1,
            lambda: worker.pop(self.dice.randint(1, 4), 0.2): 5,
            lambda: self.acked.add(worker.settle("ack") or ""): 3,
            lambda: worker.settle("restore"): 1,
            worker.disconnect: 1, worker.turn: 4,
            worker.expire: 1, worker.be_reaped: 1, lambda: self._outlive(worker, other): 1,
            lambda: self._crash(worker): 1, lambda: self._drain(worker): 1,
        }  # fmt: skip
        self.dice.choices(list(moves), list(moves.values()))[0]()

    def _new(self) -> tuple[str, str, str]:
        self.number += 1
        task, tag = f"task{self.number}", f"tag{self.number}"
        self.tasks[task] = self.dice.choice(QUEUES)
        return task, tag, self._message(task, tag)

    def _message(self, task: str, tag: str) -> str:
        return json.dumps({"headers": {"id": task}, "properties": {"delivery_tag": tag, "priority": 0}})

    def _put(self) -> None:
        task, tag, message = self._new()
        TaskQueue(self.redis, self.tasks[task]).put(task, tag, message, priority=self.dice.randint(0, 9))

    def _put_stock(self) -> None:
        task, _, message = self._new()
        self.redis.lpush(self.dice.choice(_lists(self.tasks[task])), message)

    def _put_twice(self) -> None:
        """A producer whose reply was lost sends again, with a new tag."""
        if self.tasks:
            task = self.dice.choice(sorted(self.tasks))
            if task not in self.acked:
                self.number += 1
                tag = f"tag{self.number}"
                TaskQueue(self.redis, self.tasks[task]).put(task, tag, self._message(task, tag))

    def _crash(self, worker: Process) -> None:
        self.workers[self.workers.index(worker)] = self._spawn()
        if self.dice.random() < 0.7:
            worker.expire()

    def _outlive(self, worker: Process, other: Process) -> None:
        """A lease ends, and another worker looks."""
        worker.expire()
        other.turn()

    def _drain(self, worker: Process) -> None:
        worker.redis.risk = 0.0
        for _ in range(self.dice.randint(0, 3)):
            self.acked.add(worker.settle("ack") or "")
        worker.boot._left = True
        worker.boot._flush_within(60)
        worker.boot._lease.give_up()
        self.workers[self.workers.index(worker)] = self._spawn()

    def misplaced(self) -> list[str]:
        """Tasks that nobody would ever run, and messages that are in two places."""
        places: Counter[str] = Counter()
        tags: Counter[str] = Counter()
        queued, listed, live, dead, keys = self._look()
        known = {*live, *dead}
        for task, value in queued:
            places[task] += 1
            tags[value.split("\n")[1]] += 1
        places.update(json.loads(message)["headers"]["id"] for message in listed)
        for key in keys:
            for record in self.redis.hvals(key):
                tags[record.split("\n")[4]] += 1
                places[record.split("\n")[2]] += key.removeprefix(UNACKED_PREFIX) in known
        lost = [task for task in self.tasks if task not in self.acked and not places[task]]
        return [f"{task} is lost" for task in lost] + [f"{tag} twice" for tag, n in tags.items() if n > 1]

    def _look(self) -> tuple[list[tuple[str, str]], list[str], list[str], list[str], list[str]]:
        pipe = self.redis.pipeline(transaction=True)
        for queue in QUEUES:
            zset, msgs, _ = queue_keys(queue)
            pipe.zrange(zset, 0, -1).hgetall(msgs)
        pipe.zrange(LIVE, 0, -1).zrange(DEAD, 0, -1).keys(UNACKED_PREFIX + "*")
        lists = [key for queue in QUEUES for key in _lists(queue)]
        for key in lists:
            pipe.lrange(key, 0, -1)
        first, first_msgs, second, second_msgs, live, dead, keys, *listed = pipe.execute()
        values = {**first_msgs, **second_msgs}
        queued = [(task, values[task]) for task in (*first, *second)]
        return queued, [message for some in listed for message in some], live, dead, keys

    def settle(self) -> list[str]:
        """Calm: no failures, dead workers' leases end, everybody works. What is wrong after that."""
        mine = {worker.boot.id for worker in self.workers}
        for boot in self.redis.zrange(LIVE, 0, -1):
            if boot not in mine:
                self.redis.zadd(LIVE, {boot: 0})
        for worker in self.workers:
            worker.redis.risk = 0.0
        for _ in range(60):
            if not self._remains():
                break
            for worker in self.workers:
                worker.turn()
                worker.pop(50, 0.0)
                while task := worker.settle("ack"):
                    self.acked.add(task)
        return self._remains()

    def _remains(self) -> list[str]:
        _, _, live, dead, keys = self._look()
        mine = {worker.boot.id for worker in self.workers}
        left = [f"{key} remains" for key in keys] + [f"{boot} stays" for boot in {*live, *dead} - mine]
        return left + [f"{task} was never done" for task in self.tasks if task not in self.acked]

    def close(self) -> None:
        for redis in (self.redis, *(process.redis for process in self.processes)):
            redis.connection_pool.disconnect()

    def run(self, steps: int) -> list[str]:
        """What went wrong; empty: nothing."""
        for number in range(steps):
            self.step()
            if number % 4 == 0 and (wrong := self.misplaced()):
                return wrong
        return self.settle()


def walks(url: str, seeds: range, steps: int = 40) -> dict[int, list[str]]:
    """The seeds at which something went wrong, and what."""
    found = {}
    for seed in seeds:
        walk = Walk(url, seed)
        if wrong := walk.run(steps):
            found[seed] = wrong
        walk.close()
    return found
