"""Whose this process's unacked messages are: what the transport asks of the worker's boot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from wire.keys import QUEUE_PREFIX
from wire.queue import Delivery, Popped


class Ask(NamedTuple):
    """What a pop is sent with, and what was known then."""

    boot: str
    resync: bool
    """Take nothing, but hear of everything that the boot owns: the reply to an earlier pop may be lost."""
    known: int
    """Messages of this boot in the process's hands; more in Redis means that a reply was lost."""


class Owner(Protocol):
    """Whom this process's unacked messages belong to. Called from the thread that runs kombu's event loop."""

    def watch(self, queue: str) -> None:
        """This process consumes from `queue` from now on."""

    def room(self) -> int:
        """Messages that could be started now."""

    def ask(self) -> Ask:
        """Asked once for each pop that is sent."""

    def answered(self, ask: Ask, popped: Popped) -> None:
        """The pop's reply has come."""

    def lost(self, boot: str) -> None:
        """A pop was refused: `boot` has no lease."""

    def resync(self) -> None:
        """A reply that may have held messages is lost."""

    def take(self, delivery: Delivery, fresh: bool) -> bool:
        """Whether to run it. False: it runs here already or was settled. `fresh`: taken now, not heard in a resync."""

    def holds(self, tag: str) -> bool:
        """Whether the message was taken and not settled yet."""

    def ack(self, tag: str) -> None:
        """Settle a message."""

    def restore(self, tag: str) -> None:
        """Give a message back to its queue."""

    def refuse(self, tag: str) -> None:
        """Put a message that cannot be delivered on the list of bad messages."""

    def forget_idle(self, tags: Iterable[str]) -> None:
        """Celery dropped what it had not started of `tags`: these are to be delivered again."""


_owner: Owner | None = None


def set_owner(owner: Owner | None) -> None:
    """Say whose the unacked messages of this process are; None, as at first: it only sends."""
    global _owner
    _owner = owner


def owner() -> Owner:
    """Whose the unacked messages of this process are; ValueError in a process that only sends."""
    if _owner is None:
        raise ValueError(
            "only a Sagrada worker may consume from Sagrada's queues: it needs a boot with a lease (worker.boot). "
            f"Start `sagrada worker`, or name your own queue so that it does not begin with {QUEUE_PREFIX!r}"
        )
    return _owner
