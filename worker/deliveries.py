"""The messages in this process's hands, and what is still to be told to Redis about those that have left them.

Two threads meet here: kombu's loop takes and settles, the boot's thread tells Redis. Nothing here does I/O.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import replace
from threading import Lock
from typing import Literal, NamedTuple

from wire.queue import Delivery

REMEMBERED = 10_000
"""Settled tags that are remembered at most, so that an answer of Redis from before it heard of them runs none again."""

What = Literal["ack", "restore", "refuse", "reclaim"]


class Notice(NamedTuple):
    """Something to tell Redis of one message; telling it twice does no harm."""

    what: What
    delivery: Delivery


class Deliveries:
    """Each message is held from take() until it is settled. A held message may be running: the pool has accepted it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: dict[str, Delivery] = {}
        self._tags: dict[tuple[str, str], str] = {}  # the held tag of each (task, turn)
        self._running: set[str] = set()
        self._twins: dict[str, list[str]] = {}  # a held tag and the tags of the same message, sent twice
        self._settled: OrderedDict[str, What] = OrderedDict()
        self._heard: list[str] = []  # Redis has heard that these were settled
        self._notices: deque[Notice] = deque()
        self.adopted = 0

    def take(self, delivery: Delivery, fresh: bool, boot: str) -> bool:
        """Whether the message is to be run; `boot` is the process's boot id by now.

        False: it is held already (and its ownership renewed: adopted), is the twin of one that is, or was settled.
        """
        with self._lock:
            mine = self._is_news(delivery, fresh)
            if mine:
                self._hold(delivery)
            if (
                delivery.boot != boot and delivery.tag in self._held
            ):  # the pop was sent before the boot id changed
                self._notices.append(Notice("reclaim", delivery))
            return mine

    def _is_news(self, delivery: Delivery, fresh: bool) -> bool:
        tag = delivery.tag
        if tag in self._held:
            self._adopt(delivery)
        elif self._settled.get(tag) == "ack":  # Redis has it again: a reaper was faster than the ack
            self._notices.append(Notice("ack", delivery))
        elif tag in self._settled and not fresh:
            pass  # Redis answered before it heard that we gave this one back
        elif first := self._tags.get((delivery.task, delivery.turn)):
            self._held[tag] = delivery
            self._twins.setdefault(first, []).append(tag)
            self.adopted += 1
        else:
            return True
        return False

    def _hold(self, delivery: Delivery) -> None:
        self._settled.pop(delivery.tag, None)
        self._held[delivery.tag] = delivery
        self._tags[delivery.task, delivery.turn] = delivery.tag

    def _adopt(self, delivery: Delivery) -> None:
        if self._held[delivery.tag].boot != delivery.boot:
            self._held[delivery.tag] = replace(self._held[delivery.tag], boot=delivery.boot)
            self.adopted += 1

    def holds(self, tag: str) -> bool:
        """Whether the message was taken and not settled yet."""
        return tag in self._held

    def tasks(self) -> set[str]:
        """The ids of what is held."""
        with self._lock:
            return {delivery.task for delivery in self._held.values()}

    def run(self, tag: str) -> None:
        """The pool has accepted it: from now on it survives the loss of a connection."""
        with self._lock:
            if tag in self._held:
                self._running.add(tag)

    def settle(self, tag: str, what: What) -> bool:
        """It leaves this process: tell Redis. False if it is not held."""
        with self._lock:
            delivery = self._release(tag)
            if delivery is None:
                return False
            self._tell(what, delivery)
            for twin in self._twins.pop(tag, ()):
                if held := self._release(twin):
                    self._tell("ack", held)  # the first message stands for both
            return True

    def _tell(self, what: What, delivery: Delivery) -> None:
        self._notices.append(Notice(what, delivery))
        self._settled[delivery.tag] = what
        self._settled.move_to_end(delivery.tag)
        if len(self._settled) > REMEMBERED:
            self._settled.popitem(last=False)

    def _release(self, tag: str) -> Delivery | None:
        self._running.discard(tag)
        delivery = self._held.pop(tag, None)
        if delivery and self._tags.get((delivery.task, delivery.turn)) == tag:
            del self._tags[delivery.task, delivery.turn]
        return delivery

    def drop(self, tag: str) -> None:
        """Forget a message that another worker has now; Redis is told nothing."""
        with self._lock:
            for each in (tag, *self._twins.pop(tag, ())):
                self._release(each)

    def forget_idle(self, tags: Iterable[str]) -> None:
        """Celery dropped what was not running of `tags`: it will be delivered again."""
        with self._lock:
            for tag in set(tags) - self._running:
                for each in (tag, *self._twins.pop(tag, ())):
                    self._release(each)

    def known(self, boot: str) -> int:
        """Messages of `boot` that this process holds, or has settled without Redis having heard."""
        with self._lock:
            held = sum(delivery.boot == boot for delivery in self._held.values())
            return held + sum(notice.delivery.boot == boot for notice in self._notices)

    def foreign(self, boot: str | None) -> list[Delivery]:
        """What is held under another boot id than `boot`; None: all that is held."""
        with self._lock:
            return [delivery for delivery in self._held.values() if delivery.boot != boot]

    def move(self, won: Iterable[Delivery], boot: str) -> None:
        """These are `boot`'s in Redis now."""
        with self._lock:
            for delivery in won:
                if delivery.tag in self._held:
                    self._held[delivery.tag] = replace(delivery, boot=boot)

    def notices(self, most: int) -> list[Notice]:
        """The oldest things to tell; they stay until `told`."""
        with self._lock:
            return [self._notices[i] for i in range(min(most, len(self._notices)))]

    def told(self, count: int) -> None:
        """Redis has heard the `count` oldest."""
        with self._lock:
            for _ in range(count):
                notice = self._notices.popleft()
                if notice.what != "reclaim":
                    self._heard.append(notice.delivery.tag)

    def doubt(self) -> None:
        """Redis lost writes, and what these acks stand on, a job's end or its result, may be among them.

        The messages go back to their queue instead: whoever claims them sees whether there is an end.
        """
        with self._lock:
            for i, notice in enumerate(self._notices):
                if notice.what == "ack":
                    self._notices[i] = notice._replace(what="restore")
                    self._settled[notice.delivery.tag] = "restore"

    def asked(self) -> None:
        """A pop is sent now: its answer knows of everything that Redis has heard so far.

        A message that it still brings was given back, or Redis has lost the ack, and with it maybe the job's end.
        """
        with self._lock:
            for tag in self._heard:
                self._settled.pop(tag, None)
            self._heard.clear()

    def __len__(self) -> int:
        return len(self._held)
