"""The queue in Redis: every script, its argument order, and what it answers. See wire/keys.py for the names.

A message is queued in a sorted set (score = submit time by Redis, or its tenant's turn if that is later, + priority x
ageing, in ms), or unacked in the hash of the boot that took it. Each script moves it in one step, so it is always in
exactly one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import NoScriptError

from wire.job import DEFAULT_PRIORITY, MAX_PRIORITY, MIN_PRIORITY
from wire.keys import job_key, queue_keys, unacked_key
from wire.scripts import EVEN_IF_FULL, UNLESS_FULL, load

if TYPE_CHECKING:
    from redis import Redis

AGEING_MS = 10_000
"""Waiting time that one priority step is worth: nothing of priority 9 is overtaken by what came 90 s later."""
TURN_MS = 1_000
"""What a tenant's next job stands behind its last one: of two tenants that fill the queue each gets its half."""
PERIOD_MS, PERIODS = 10_000, 6
"""What the pace is measured over; as wire/lua/queue_lib.lua counts."""
STOCK_SEPARATOR = "\x06\x16"
"""What kombu's Redis transport puts between a queue's name and its priority step."""
LONGEST_NAME = 255


class Script:
    """A script, run by its hash; its text is sent only to a Redis that does not know it yet."""

    def __init__(self, *names: str, new_work: bool = False) -> None:
        """`new_work`: a Redis that is full refuses it."""
        self.text = (UNLESS_FULL if new_work else EVEN_IF_FULL) + load("queue_lib", *names)
        self.sha = sha1(self.text.encode()).hexdigest()

    def __call__(self, redis: Redis, *args: Any) -> Any:
        """The script's answer; raises redis.RedisError."""
        try:
            return redis.evalsha(self.sha, 0, *args)
        except NoScriptError:
            return redis.eval(self.text, 0, *args)


POP = Script("queue_absorb_lib", "queue_pop")
_ABSORB = Script("queue_absorb_lib", "queue_absorb")
_PUT, _REMOVE = Script("queue_put", new_work=True), Script("queue_remove")
_ACK, _RESTORE, _REFUSE, _RECLAIM = (
    Script("queue_" + name) for name in ("ack", "restore", "refuse", "reclaim")
)
_REGISTER, _RENEW, _REAP = (Script("queue_" + name) for name in ("register", "renew", "reap"))


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message in a worker's hands: whose it is in Redis, and what it asks for."""

    boot: str
    """The boot whose unacked hash holds it."""
    queue: str
    task: str
    """The task id, which is the job id."""
    tag: str
    """The delivery tag: the same after every redelivery of this message, another for another message."""
    turn: str = ""
    """Tells two messages of one task apart that are both meant (a retry); equal for a message sent twice."""


class Record(NamedTuple):
    """An unacked message as the pop script answers it."""

    queue: str
    task: str
    redeliveries: int
    tag: str
    body: str
    """kombu's message, JSON."""

    @classmethod
    def parse(cls, record: bytes) -> Record:
        """The parts of a record; ValueError if it is none."""
        _, queue, task, redeliveries, tag, body = record.decode().split("\n", 5)
        return cls(queue, task, int(redeliveries), tag, body)


class Popped(NamedTuple):
    """What a pop brought."""

    unacked: int
    """Messages in the boot's hash after the pop."""
    refused: int
    """Bad messages that plain producers had sent: they are on the queue's `:bad` list now."""
    owned: list[bytes]
    """Only after a resync: every record in the boot's hash."""
    taken: list[bytes]
    """The records taken now, most urgent first."""
    bells: list[bytes]
    """Only where nothing was taken: for each queue the id of its last ring."""


def milliseconds(time: Sequence[int]) -> int:
    """The answer to TIME, seconds and microseconds, as the scripts count."""
    return int(time[0]) * 1000 + int(time[1]) // 1000


def pop_args(boot: str, most: int, resync: bool, queues: Sequence[str]) -> list[str | int]:
    """POP's arguments: take up to `most` messages, or with `resync` none but hear what the boot owns."""
    return [boot, most, int(resync), AGEING_MS, DEFAULT_PRIORITY, *queues]


def _is_name(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= LONGEST_NAME and "\n" not in text


def stock_lists(queue: str) -> list[str]:
    """kombu's own lists of a queue, where a producer that does not know us puts its messages."""
    return [queue, *(f"{queue}{STOCK_SEPARATOR}{step}" for step in range(1, MAX_PRIORITY + 1))]


class TaskQueue:
    """One queue, as producers and onlookers see it."""

    def __init__(self, redis: Redis, name: str) -> None:
        if not _is_name(name):
            raise ValueError(f"a queue name has 1 to {LONGEST_NAME} characters and no newline: {name!r}")
        self.redis, self.name = redis, name
        self._zset, self._msgs, _ = queue_keys(name)

    def put(
        self, task: str, tag: str, body: str, *, priority: int = DEFAULT_PRIORITY, tenant: str = ""
    ) -> bool:
        """Queue a message (kombu's JSON); False, and nothing changes, if its task is queued already.

        Jobs of one tenant take turns with those of others; without a name, first come is first served.
        """
        if not (_is_name(task) and _is_name(tag)):
            raise ValueError(f"a task id has 1 to {LONGEST_NAME} characters and no newline")
        urgency = max(MIN_PRIORITY, min(MAX_PRIORITY, priority))
        return bool(_PUT(self.redis, self.name, task, tag, urgency * AGEING_MS, body, tenant, TURN_MS))

    def position(self, task: str) -> int | None:
        """1 for the task that is taken next; None if it is not queued (any more), or not absorbed yet."""
        rank: Any = self.redis.zrank(self._zset, task)
        return None if rank is None else int(rank) + 1

    def size(self) -> int:
        """Messages that wait, those on kombu's own lists included."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.zcard(self._zset)
        for key in stock_lists(self.name):
            pipe.llen(key)
        return sum(pipe.execute())

    def pace(self) -> float | None:
        """Messages taken per second over the last minute; None if there were none."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.time()
        pipe.hgetall(self._zset + ":taken")
        time, counts = pipe.execute()
        now = milliseconds(time)
        recent = {int(p): int(n) for p, n in counts.items() if int(p) > now // PERIOD_MS - PERIODS}
        if not recent:
            return None
        return sum(recent.values()) / max(1.0, (now - min(recent) * PERIOD_MS) / 1000)

    def age(self, most: int = 100) -> float:
        """Seconds that the one that has waited longest has waited, of those that are taken next; 0 if nothing waits.

        Of the others none can be older by more than its priority and its tenant's turns have kept it back.
        """
        pipe = self.redis.pipeline(transaction=False)
        for task in self.peek(most):
            pipe.hget(job_key(task), "created")
        pipe.time()
        *created, time = pipe.execute()
        known = [int(at) for at in created if at]  # a plain producer's job has no record before it is begun
        return max(0.0, (milliseconds(time) - min(known)) / 1000) if known else 0.0

    def peek(self, most: int = 10) -> list[str]:
        """The ids of the tasks that are taken next."""
        ids: Any = self.redis.zrange(self._zset, 0, most - 1)
        return [task.decode() if isinstance(task, bytes) else task for task in ids]

    def remove(self, task: str) -> bool:
        """Take a waiting task out; False if it was not queued."""
        return bool(_REMOVE(self.redis, self.name, task))

    def purge(self) -> int:
        """Drop everything that waits; how many there were."""
        pipe = self.redis.pipeline(transaction=True)
        pipe.zcard(self._zset)
        for key in stock_lists(self.name):
            pipe.llen(key)
        pipe.delete(self._zset, self._msgs, *stock_lists(self.name))
        return sum(pipe.execute()[:-1])

    def absorb(self, most: int = 200) -> tuple[int, int]:
        """Move in what plain producers sent: (taken off kombu's lists, refused of those)."""
        moved, refused = _ABSORB(self.redis, self.name, most, AGEING_MS, DEFAULT_PRIORITY)
        return int(moved), int(refused)


class Boots:
    """The owners' side: leases, and the moves between queues and unacked hashes. Raises RedisError."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def register(self, boot: str, lease: float, past: Iterable[str] = ()) -> int:
        """Give `boot` a lease of so many seconds and declare `past` ids of this process dead; Redis ms."""
        return int(_REGISTER(self.redis, boot, int(lease * 1000), *past))

    def leave(self, *past: str) -> None:
        """Declare this process's ids dead: what they hold is there for the reaper."""
        _REGISTER(self.redis, "", 0, *past)

    def renew(self, boot: str, lease: float) -> int | None:
        """Redis ms; None if the lease is lost: the boot's messages are somebody else's now."""
        return int(_RENEW(self.redis, boot, int(lease * 1000))) or None

    def reap(self, *, declare: bool, most: int = 200) -> tuple[list[str], int, int]:
        """(boots declared dead for want of a lease, messages put back, boots still to be emptied)."""
        declared, restored, dead = _REAP(self.redis, most, int(declare))
        return [boot.decode() if isinstance(boot, bytes) else boot for boot in declared], restored, dead

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        """Forget messages, also where a reaper has queued them again; how many there were."""
        return int(_ACK(self.redis, *(x for d in deliveries for x in (d.boot, d.queue, d.task, d.tag))))

    def restore(self, deliveries: Iterable[Delivery]) -> int:
        """Put messages back into their queues with their old scores; how many there were."""
        return int(_RESTORE(self.redis, *(x for d in deliveries for x in (d.boot, d.tag))))

    def refuse(self, deliveries: Iterable[Delivery]) -> int:
        """Move messages that cannot be delivered to their queues' `:bad` lists; how many there were."""
        return int(_REFUSE(self.redis, *(x for d in deliveries for x in (d.boot, d.queue, d.tag))))

    def reclaim(self, boot: str, deliveries: Sequence[Delivery]) -> list[bool] | None:
        """Take messages over for `boot` from earlier boots or out of the queue; None if it has no lease.

        False for a message that is in neither: another worker has it.
        """
        args = (x for d in deliveries for x in (d.boot, d.queue, d.task, d.tag))
        won = _RECLAIM(self.redis, boot, *args)
        return None if won is None else [bool(how) for how in won]

    def unacked(self, boot: str) -> int:
        """Messages in the boot's hash."""
        size: Any = self.redis.hlen(unacked_key(boot))
        return int(size)
