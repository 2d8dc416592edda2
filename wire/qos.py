"""Who settles a message: the process's owner for ours, kombu for the others."""

# mypy: allow-untyped-calls
# kombu is typed in part only.

from __future__ import annotations

from typing import Any

from kombu.transport import redis as stock
from kombu.transport import virtual

from wire.owner import owner


class QoS(stock.QoS):
    """kombu's book of what a channel has delivered. Nothing of ours is queued again because a channel closes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ours: set[str] = set()

    def can_consume(self) -> bool:
        """A pop that was sent must be read, room or not: its reply may hold messages."""
        channel = self.channel
        if channel.pop_sent is not None:
            return True
        return bool(super().can_consume()) and (not channel.is_task_channel or channel.room() > 0)

    def append(self, message: Any, tag: str) -> None:
        """The pop script has stored ours already."""
        if self.channel.is_task_channel and owner().holds(tag):
            self.ours.add(tag)
            virtual.QoS.append(self, message, tag)
        else:
            super().append(message, tag)

    def ack(self, tag: str) -> None:
        """Settle a message."""
        if not self._settled(tag, "ack"):
            super().ack(tag)

    def reject(self, tag: str, requeue: bool = False) -> None:
        """Settle a message, or give it back."""
        if not self._settled(tag, "restore" if requeue else "ack"):
            super().reject(tag, requeue)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Give a message back."""
        if not self._settled(tag, "restore"):
            super().restore_by_tag(tag, client, leftmost)

    def _settled(self, tag: str, how: str) -> bool:
        if tag not in self.ours:
            return False
        self.ours.discard(tag)
        getattr(owner(), how)(tag)
        virtual.QoS.ack(self, tag)
        return True

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """The channel closes. What runs, runs on; what Celery drops now is delivered again."""
        self._let_go()
        super().restore_unacked_once(stderr)

    def restore_unacked(self, client: Any = None) -> None:
        """basic_recover."""
        self._let_go()
        super().restore_unacked(client)

    def _let_go(self) -> None:
        self._flush()
        ours = [tag for tag in self._delivered if tag in self.ours]
        for tag in ours:
            del self._delivered[tag]
        if ours:
            owner().forget_idle(ours)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """No visibility timeout: leases say when a message is free again."""
