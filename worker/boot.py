"""This process's life in Redis: its boot id, its lease, its acks; and the reaper of those whose lease has ended.

One thread with a connection of its own. A boot id is never used again: who loses the lease takes a new id, takes
its running messages back at once, and goes on; the model stays loaded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from wire.owner import Ask
from wire.queue import Boots, Delivery, Popped, TaskQueue
from wire.redis_url import ask_for_master, client
from worker.deliveries import Deliveries, What
from worker.eviction import Eviction
from worker.hints import Hints
from worker.lease import Lease
from worker.reaper import Reaper

log = logging.getLogger(__name__)

TICKS_PER_LEASE = 4
BATCH = 500
"""Most notices, or plain producers' messages, per script."""


@dataclass
class Stats:
    """Counts since the process began."""

    renewed: int = 0
    """Times that the lease was renewed."""
    lost: int = 0
    """Leases of this process that ended while it lived."""
    adopted: int = 0
    """Second deliveries of messages that it held."""
    reclaimed: int = 0
    elsewhere: int = 0
    """Messages that another worker had when this process wanted them back."""
    resyncs: int = 0
    reaped: int = 0
    """Boots that this process declared dead."""
    restored: int = 0
    """Their messages that it put back."""
    refused: int = 0
    """Messages that could not be read."""


def connect(url: str, lease: float) -> Redis:
    """A client that never retries by itself: a retry would hide that Redis was away."""
    wait = max(1.0, lease / 2)
    return client(url, retry=Retry(NoBackoff(), 0), socket_timeout=wait, socket_connect_timeout=wait)


def _nothing(*_: object) -> None:
    """What happens where nobody listens."""


class Boot:
    """The Owner (wire.owner) of a worker's messages. Set the callbacks before start().

    All callbacks but `room` come from the boot's own threads and must return soon.
    """

    def __init__(self, url: str, lease: float) -> None:
        self.stats = Stats()
        self.room: Callable[[], int] = lambda: 0
        """Messages that could be started now; asked by kombu's loop."""
        self.on_tick: Callable[[int], None] = _nothing
        """Each lease tick, with Redis's time in ms."""
        self.on_hint: Callable[[str], None] = _nothing
        """Somebody wants this job id looked at again: it was cancelled."""
        self.on_redis_changed: Callable[[], None] = _nothing
        """Redis restarted, or another server took its place; or it may have."""
        self.on_writes_lost: Callable[[], None] = _nothing
        """Another Redis answers than before: what was written last it may not have."""
        self.on_new_boot: Callable[[str, str], None] = _nothing
        """(old id, new id): the lease was lost and the process goes on under a new id."""
        self.on_elsewhere: Callable[[list[str]], None] = _nothing
        """Task ids that run here but whose messages somebody else has: look at their records."""
        self._redis = connect(url, lease)
        self._boots = Boots(self._redis)
        self._lease = Lease(self._boots, lease)
        self._told_id = self._lease.id
        self._reaper = Reaper(self._redis, lease)
        self._eviction = Eviction(self._redis)
        self._deliveries = Deliveries()
        self._hints = Hints(
            connect(url, lease),
            lambda: self.id,
            lambda job: self.on_hint(job),
            self._follow,
        )
        self._queues: set[str] = set()
        self._resync = False
        self._away = False
        self._left = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._next_tick = 0.0
        self._thread = threading.Thread(target=self._run, name="boot", daemon=True)

    @property
    def id(self) -> str:
        """The present boot id; another one after a lost lease."""
        return self._lease.id

    @property
    def lease(self) -> float:
        """Seconds that a lease lasts."""
        return self._lease.seconds

    # Called by the transport, from kombu's loop (see wire.owner.Owner)

    def watch(self, queue: str) -> None:
        """This process consumes from `queue` from now on."""
        self._queues.add(queue)

    def ask(self) -> Ask:
        """What the next pop is sent with."""
        resync, self._resync = self._resync, False
        self.stats.resyncs += resync
        self._deliveries.asked()
        return Ask(self.id, resync, self._deliveries.known(self.id))

    def answered(self, ask: Ask, popped: Popped) -> None:
        """More in Redis than was known and came now: the reply to an earlier pop was lost."""
        self.stats.refused += popped.refused
        if popped.refused:
            log.warning("%d bad messages were set aside", popped.refused)
        if not ask.resync and popped.unacked > ask.known + len(popped.taken):
            self._resync = True

    def lost(self, boot: str) -> None:
        """A pop was refused: look after the lease now."""
        if boot == self.id:
            self._next_tick = 0.0
            self._wake.set()

    def resync(self) -> None:
        """The next pop asks for everything that this boot owns."""
        self._resync = True

    def take(self, delivery: Delivery, fresh: bool) -> bool:
        """Whether to run it."""
        return self._deliveries.take(delivery, fresh, self.id)

    def holds(self, tag: str) -> bool:
        """Whether the message was taken and not settled yet."""
        return self._deliveries.holds(tag)

    def ack(self, tag: str) -> None:
        """Settle a message, once Redis can be reached."""
        self._settle(tag, "ack")

    def restore(self, tag: str) -> None:
        """Give a message back to its queue, with its old place."""
        self._settle(tag, "restore")

    def refuse(self, tag: str) -> None:
        """Set a bad message aside."""
        self.stats.refused += 1
        self._settle(tag, "refuse")

    def forget_idle(self, tags: Iterable[str]) -> None:
        """Celery dropped what was not running: resync delivers it again."""
        self._deliveries.forget_idle(tags)
        self._resync = True

    def _settle(self, tag: str, what: What) -> None:
        if not self._deliveries.settle(tag, what):
            return
        self._wake.set()
        if self._left:  # Celery's last acks come after the pool has stopped
            self._flush_within(self.lease)

    # Called by the pool

    def mark_running(self, tag: str) -> None:
        """The pool has accepted the message: it survives the loss of Celery's connection."""
        self._deliveries.run(tag)

    def drop(self, tag: str) -> None:
        """The message's job was left to another worker: forget it without an ack."""
        self._deliveries.drop(tag)

    def tasks(self) -> set[str]:
        """The jobs whose messages are in this process's hands."""
        return self._deliveries.tasks()

    @property
    def held(self) -> int:
        """Messages in this process's hands."""
        return len(self._deliveries)

    @property
    def untold(self) -> int:
        """Settled messages that Redis has not heard of yet."""
        return len(self._deliveries.notices(BATCH))

    @property
    def alive(self) -> bool:
        """Whether the lease was held at the last look, and Redis reached."""
        return self._lease.registered and not self._away

    @property
    def quiet(self) -> bool:
        """Whether nobody may be taken for dead now: this process, or Redis, may be the one that was away."""
        return not self.alive or self._reaper.quiet

    def counters(self) -> dict[str, int]:
        """The stats as a map."""
        lease = self._lease
        return asdict(
            replace(self.stats, renewed=lease.renewed, lost=lease.lost, adopted=self._deliveries.adopted)
        )

    def start(self) -> None:
        """Begin to live; does not wait for Redis."""
        self._thread.start()
        self._hints.start()

    def leave(self) -> None:
        """After the drain: give up the lease; what is still unacked returns to the queue at once. Once only."""
        if self._left or self._thread.ident is None:  # never started
            return
        self._stop.set()
        self._wake.set()
        self._thread.join(2 * self.lease)
        self._hints.stop()
        self._left = True
        self._flush_within(self.lease)
        try:
            self._lease.give_up()
            while self._boots.unacked(self.id) and self._boots.reap(declare=False, most=BATCH)[1]:
                pass
        except RedisError as error:
            log.warning("could not give up the lease (%s): it ends by itself in %g s", error, self.lease)

    # The boot's thread

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(max(0.0, self._next_tick - time.monotonic()))
            self._wake.clear()
            try:
                self._turn()
            except RedisError as error:
                self._lose_sight(error)
            except Exception:  # without this thread the worker would lose its lease and never ack
                log.exception("the boot's thread goes on after an unexpected error")
                self._stop.wait(0.1)

    def _turn(self) -> None:
        if time.monotonic() >= self._next_tick:
            self._tick()
            self._next_tick = time.monotonic() + self.lease / TICKS_PER_LEASE
        while self._flush():
            pass
        if self._away:
            log.warning("Redis is back")
            self._away = False

    def _lose_sight(self, error: RedisError) -> None:
        if not self._away:
            log.warning("cannot reach Redis (%s): the jobs run on", error)
        self._away = True
        self._reaper.disturbed()
        self._next_tick = 0.0
        self._stop.wait(min(0.2, self.lease / TICKS_PER_LEASE))
        self._wake.set()

    def _tick(self) -> None:
        now, new = self._lease.renew()
        if self._told_id != self.id:
            old, self._told_id = self._told_id, self.id
            self._tell(self.on_new_boot, old, self.id)
        if self._reaper.watch(now):
            if self._reaper.replaced:
                self._deliveries.doubt()
                self._tell(self.on_writes_lost)
            self._eviction.look()
            self._hints.listen_anew()
            self._tell(self.on_redis_changed)
            self._reclaim(self._deliveries.foreign(None))  # Redis may have lost the last pops
        elif new:
            self._reclaim(self._deliveries.foreign(self.id))
        self._reap()
        for queue in list(self._queues):
            self._absorb(TaskQueue(self._redis, queue))
        self._tell(self.on_tick, now)

    def _follow(self) -> None:
        """The sentinels name another master: the tick is first there, for it sees who it is."""
        self._next_tick = 0.0
        ask_for_master(self._redis)
        self._wake.set()

    def _reap(self) -> None:
        declared, restored = self._reaper.reap()
        self.stats.reaped += len(declared)
        self.stats.restored += restored
        if declared or restored:
            log.warning("reaped %s: %d messages are queued again", ", ".join(declared) or "none", restored)

    def _reclaim(self, wanted: list[Delivery]) -> None:
        elsewhere: list[str] = []
        for start in range(0, len(wanted), BATCH):
            some = wanted[start : start + BATCH]
            won = self._boots.reclaim(self.id, some)
            if won is None:  # lost again: the next tick finds a new id, and reclaims for it
                self._next_tick = 0.0
                return
            self._deliveries.move((d for d, mine in zip(some, won, strict=True) if mine), self.id)
            elsewhere += [d.task for d, mine in zip(some, won, strict=True) if not mine]
        self.stats.reclaimed += len(wanted) - len(elsewhere)
        self.stats.elsewhere += len(elsewhere)
        if elsewhere:
            self._tell(self.on_elsewhere, elsewhere)

    def _absorb(self, queue: TaskQueue) -> None:
        """So that a plain producer's job has a position even while nobody has room."""
        for _ in range(20):
            moved, refused = queue.absorb(BATCH)
            self.stats.refused += refused
            if refused:
                log.warning("%d bad messages in %s were set aside", refused, queue.name)
            if moved < BATCH:
                return

    def _flush(self) -> bool:
        """Tell Redis the oldest notices; raises before they are forgotten. Whether there were any."""
        notices = self._deliveries.notices(BATCH)
        if not notices:
            return False
        of = {what: [n.delivery for n in notices if n.what == what] for what in {n.what for n in notices}}
        if acks := of.get("ack"):
            # Reclaimed between the ack and now: then it lies in the new boot's hash.
            moved = [replace(d, boot=self.id) for d in acks if d.boot != self.id]
            self._boots.ack(acks + moved)
        if restores := of.get("restore"):
            self._boots.restore(restores)
        if refusals := of.get("refuse"):
            self._boots.refuse(refusals)
        if late := of.get("reclaim"):
            self._reclaim(late)
        self._deliveries.told(len(notices))
        return True

    def _flush_within(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self._reaper.another():  # no tick looks any more
                    self._deliveries.doubt()
                if not self._flush():
                    return
            except RedisError:
                time.sleep(0.05)
        log.warning("some acks could not be told to Redis: their jobs may be delivered again")

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        try:
            callback(*args)
        except Exception:  # the lease must not depend on what is made of the news
            log.exception("a callback of the boot failed")
