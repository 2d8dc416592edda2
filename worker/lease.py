"""The boot id and its lease: held while this process renews it, never taken up again once lost."""

from __future__ import annotations

import logging
import os

from wire.queue import Boots

log = logging.getLogger(__name__)


def new_boot_id() -> str:
    """64 random bits in hex."""
    return os.urandom(8).hex()


class Lease:
    """This process's present boot id. Whoever loses the lease goes on under a new id."""

    def __init__(self, boots: Boots, seconds: float) -> None:
        self.id = new_boot_id()
        self.seconds = seconds
        self.lost = 0
        """Leases that ended while the process lived."""
        self.renewed = 0
        """Times that it was renewed while it was held."""
        self.registered = False
        self._boots = boots
        self._past: list[str] = []  # ids of ours that Redis has not been told yet to be dead

    def renew(self) -> tuple[int, bool]:
        """(Redis ms, whether the id is newly registered). Raises RedisError; then call it again."""
        if self.registered:
            if now := self._boots.renew(self.id, self.seconds):
                self.renewed += 1
                return now, False
            self._take_new_id()
        now = self._boots.register(self.id, self.seconds, self._past)
        self.registered = True
        self._past.clear()
        return now, True

    def _take_new_id(self) -> None:
        old, self.id = self.id, new_boot_id()
        self.registered = False
        self._past.append(old)
        self.lost += 1
        log.warning("the lease of boot %s is lost: this worker goes on as %s", old, self.id)

    def give_up(self) -> None:
        """What is unacked may be put back by any reaper, at once."""
        self._boots.leave(*self._past, self.id)
        self.registered = False
