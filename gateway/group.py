"""The jobs of one request, and the one exchange that answers for all of them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from gateway.exchange import Exchange
from gateway.generation import DELETED, GONE_AWAY, Generation
from gateway.service import Gateway
from gateway.subscriber import Subscriber
from wire.events import Cancelled, Done, Event, Expired, Failed, Terminal, Token


class Member(Subscriber):
    """One job of a group."""

    bound = True

    def __init__(self, group: Group, place: int, job_id: str) -> None:
        super().__init__(job_id)
        self.place = place
        """Its prompt's, in the request."""
        self._group = group

    def deliver(self, events: list[Event]) -> None:
        """The group hears of it."""
        self._group.hear(self, events)

    def vanished(self) -> None:
        """Somebody deleted the job."""
        self._group.give_up(DELETED)

    def abandon(self) -> None:
        """The gateway goes: nobody would hear the end."""
        self._group.give_up(GONE_AWAY)

    def beat(self) -> None:
        """The group may have something to say in between."""
        self._group.beat()


class Group(ABC):
    """Jobs that end together: when one fails, or the client leaves, the others are cancelled."""

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        generations: Sequence[Generation],
        ends: dict[int, Done] | None = None,
    ) -> None:
        """`ends`: where it is put how each job ended, by its place in the request."""
        self.gateway, self.exchange, self.generations = gateway, exchange, generations
        self.ends = {} if ends is None else ends
        self._members = [
            Member(self, place, generation.accepted.job.id) for place, generation in enumerate(generations)
        ]
        self._lock = threading.Lock()  # the jobs' events come from several threads
        self._over = False

    def start(self) -> None:
        """Begin to listen. Opened first: a client that has left already is told at once, and then closes them."""
        for member in self._members:
            self.gateway.hub.open(member)
        self.exchange.attend(self.gone)

    def gone(self) -> None:
        """The client has left."""
        self._over = True
        self._cancel()

    def hear(self, member: Member, events: list[Event]) -> None:
        """What one job has to say."""
        with self._lock:
            if not self._over:
                self._take(member, events)
                self._flush()

    def give_up(self, end: Terminal) -> None:
        """Answer with this, and cancel what still runs."""
        with self._lock:
            if not self._over:
                self._fail(end)
                self._flush()

    @abstractmethod
    def beat(self) -> None:
        """The time of a heartbeat has passed."""

    def _take(self, member: Member, events: list[Event]) -> None:
        for told in events:
            if isinstance(told, Token):
                self._token(member.place, told)
            elif isinstance(told, Done):
                self.ends[member.place] = told
                self._done(member.place, told)
                self._over = len(self.ends) == len(self._members)
                if self._over:
                    self._finish()
                self.gateway.hub.close(member)  # last: a drain ends when hub is empty and the chores are done
            elif isinstance(told, Failed | Cancelled | Expired):
                self._fail(told)
                return

    def _fail(self, end: Terminal) -> None:
        self._over = True
        self._say(end)
        self._cancel()

    def _cancel(self) -> None:
        for member in self._members:
            if member.place not in self.ends:
                self.gateway.cancel_soon(member.job_id)
            self.gateway.hub.close(member)

    @abstractmethod
    def _flush(self) -> None:
        """What there is to say goes out."""

    @abstractmethod
    def _token(self, place: int, token: Token) -> None:
        """A token of that job."""

    @abstractmethod
    def _done(self, place: int, done: Done) -> None:
        """That job has ended well."""

    @abstractmethod
    def _finish(self) -> None:
        """All jobs have."""

    @abstractmethod
    def _say(self, end: Terminal) -> None:
        """The error is the end of the answer."""


class Gathered(Group):
    """A client that waits for everything: nothing goes out before the end."""

    def beat(self) -> None:
        """There is nothing to say in between."""

    def _flush(self) -> None:
        pass

    def _token(self, place: int, token: Token) -> None:
        self.generations[place].tokens.append(token)

    def _done(self, place: int, done: Done) -> None:
        pass

    def _finish(self) -> None:
        self.gateway.chore(self._send)

    @abstractmethod
    def _send(self) -> None:
        """All texts are there: answer. In a thread of its own."""
