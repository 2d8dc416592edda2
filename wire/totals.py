"""The fleet's totals: what all processes have counted, alive or not. They outlive who counted them.

A process says its own counts as they stand since it began. A script adds what is new since it last said so: a reply
that is lost, or a Redis that has lost its last writes, makes nothing counted twice, and little not at all.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from wire.keys import TOTALS, counted_key, totals_key
from wire.queue import milliseconds
from wire.scripts import EVEN_IF_FULL, load
from wire.tally import Tally

if TYPE_CHECKING:
    from redis import Redis

KEEP = 7 * 24 * 3600.0
"""Seconds that totals outlive the last word of who adds to them."""
KEEP_WORD = 24 * 3600.0
"""Seconds that is remembered what a process said: one that says nothing for so long is not heard of again."""
SHOWN = 3600.0
"""Seconds that a worker is shown after its last word; when it comes back it goes on from its totals."""
EVERYTHING_EVERY = 24
"""Times: a Redis may have lost what it was told, and say nothing of it."""


class Total(NamedTuple):
    """What was counted under one set of labels."""

    scope: tuple[str, ...]
    """Nothing, or the model, or the model and the worker."""
    values: dict[str, float]
    """By field (wire/metrics.py)."""


class Account:
    """One process's way to add a tally; for one thread."""

    def __init__(self, redis: Redis, tally: Tally) -> None:
        self.tally = tally
        self._add: Any = redis.register_script(EVEN_IF_FULL + load("totals_add"))
        self._member = msgspec.json.encode(tally.scope)
        self._keys = [counted_key(secrets.token_hex(8)), totals_key(tally.scope), TOTALS]
        self._told: dict[str, float] = {}
        self._heard = False
        self._turn = 0

    def publish(self) -> None:
        """Say what is new; everything the first time, now and then, and after an error. RedisError."""
        values = self.tally.values()
        news = {name: value for name, value in values.items() if self._told.get(name) != value}
        self._told = {}  # an error leaves it so
        args: list[Any] = [round(KEEP * 1000), round(KEEP_WORD * 1000), self._member, int(self._heard)]
        for name, value in news.items():
            args += name, repr(value)
        self._add(keys=self._keys, args=args)
        self._heard = True
        self._turn = (self._turn + 1) % EVERYTHING_EVERY
        self._told = values if self._turn else {}


def read(redis: Redis) -> list[Total]:
    """All totals that are to be shown; `redis` must return bytes. RedisError."""
    client: Any = redis
    time, entries = client.pipeline(transaction=False).time().zrange(TOTALS, 0, -1, withscores=True).execute()
    recent = milliseconds(time) - SHOWN * 1000
    scopes = [(msgspec.json.decode(member, type=tuple[str, ...]), at) for member, at in entries]
    shown = sorted(scope for scope, at in scopes if len(scope) < 2 or at >= recent)
    pipe = client.pipeline(transaction=False)
    for scope in shown:
        pipe.hgetall(totals_key(scope))
    return [
        Total(scope, {name.decode(): float(value) for name, value in fields.items()})
        for scope, fields in zip(shown, pipe.execute() if shown else (), strict=True)
    ]
