"""A small world of owners, readers and accidents around one job on a real Redis, driven by one random seed.

Every accident that the ledger must survive is a step here: replies lost before and after the command ran, owners
that die or are late, readers that drop, reconnect and come late, a Redis that comes back with older data.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import ResponseError

from tests.integration.ledger.actors import Client, Held, Lost, Owner, Violation, require
from wire import commands
from wire.codec import decode_event
from wire.commands import Outcome, entry
from wire.events import Event, Failed, Resumed, Started, Token
from wire.job import Job, SamplingParams, new_job_id
from wire.keys import channel, job_key, log_key
from wire.ledger import Ledger
from wire.record import Record, parse_record
from wire.resp import Command, RespConnection

T = TypeVar("T")


class World:
    """One job, three owners, three clients and a list of accidents."""

    def __init__(self, url: str, seed: int, *, mutant: str = "") -> None:
        self.random = random.Random(seed)
        self.mutant = mutant
        self.redis: Any = Redis.from_url(url)
        self.ledger = Ledger(self.redis, result_ttl=600)
        params = SamplingParams(max_new_tokens=9, seed=1)
        self.job = Job(id=new_job_id(), model="m", params=params, ids=(1, 2, 3))
        self.length = self.random.randint(1, 8)
        self.plain = self.random.random() < 0.4
        self.owners = [Owner(self, name) for name in ("a", "b", "c")]
        self.clients = [Client(self) for _ in range(3)]
        self.ended: Record | None = None
        self.deleted = self.rewound = False
        self.attempt = 0
        self.snapshot: dict[str, tuple[bytes, int]] | None = None
        self.live = RespConnection(url)
        self.live.call([("SUBSCRIBE", channel(self.job.id))])
        self.trace: list[str] = []
        if not self.plain:
            self.ledger.submit(self.job, "q")

    def close(self) -> None:
        self.live.close()
        self.redis.close()

    # What goes wrong

    def maybe(self, chance: float, act: Callable[[], Any]) -> None:
        if self.random.random() < chance:
            act()

    def lossy(self, act: Callable[[], T]) -> T:
        """Run a command whose reply may be lost, before or after it ran; or run it twice, as a retry does."""
        luck = self.random.random()
        if luck < 0.05:
            raise Lost
        result = act()
        if luck < 0.12:
            raise Lost
        return result

    def append(self, attempt: int, new: Token) -> Outcome:
        reply = self.run(commands.append_command(self.job.id, attempt, entry(new)))
        return commands.parse_append(reply)

    def publish(self, new: Token) -> None:
        self.run(commands.publish_command(self.job.id, entry(new)))

    def reappend(self, boot: str, held: Held, start: int) -> commands.Written:
        return self.lossy(
            lambda: self.ledger.reappend(
                self.job.id, held.attempt, boot, held.claim, held.tokens[start:], len(held.tokens)
            )
        )

    def run(self, command: Command) -> Any:
        try:
            return self.redis.execute_command(*command)
        except ResponseError as error:
            return error

    def take_snapshot(self) -> None:
        keys = (job_key(self.job.id), log_key(self.job.id))
        self.snapshot = {key: (self.redis.dump(key), max(0, self.redis.pttl(key))) for key in keys}

    def rewind(self) -> None:
        """A failover to a replica that had not heard the latest writes."""
        if self.snapshot is None or self.deleted:
            return
        for key, (data, ttl) in self.snapshot.items():
            self.redis.delete(key)
            if data is not None:
                self.redis.restore(key, ttl, data)
        self.snapshot, self.ended, self.rewound, self.attempt = None, None, True, 0
        for owner in self.owners:
            if owner.held:
                owner.held.unsure = True
        for client in self.clients:
            client.online = False

    def cancel(self) -> None:
        if self.ledger.record(self.job.id) is not None:
            stopped = self.ledger.cancel(self.job.id)
            require(stopped.changed or self.ended is not None, "a live job is cancelled")
            require(not self.ledger.cancel(self.job.id).changed, "a second cancel changes nothing")

    def delete(self) -> None:
        record = self.ledger.record(self.job.id)
        verdict = self.ledger.delete(self.job.id)
        require(
            (verdict == "deleted") == bool(record and record.terminal), f"{verdict}: only what has ended goes"
        )
        self.deleted = self.deleted or verdict == "deleted"

    # What must hold

    def logged(self) -> list[Event]:
        return [decode_event(row[1][b"e"]) for row in self.redis.xrange(log_key(self.job.id))]

    def check(self) -> None:
        pipe = self.redis.pipeline(transaction=False)
        pipe.xrange(log_key(self.job.id)).execute_command(*commands.record_command(self.job.id))
        rows, fields, *ttls = pipe.pttl(job_key(self.job.id)).pttl(log_key(self.job.id)).execute()
        logged = [decode_event(row[1][b"e"]) for row in rows]
        events = [event for event in logged if not isinstance(event, Started | Resumed)]
        require(
            [e.seq for e in events] == list(range(len(events))),
            f"the log has no gap and no duplicate: {events}",
        )
        require(all(isinstance(e, Token) for e in events[:-1]), f"the log ends with its end: {events}")
        record = parse_record(fields)
        if record is None:
            require(ttls == [-2, -2], f"record and log go together: {ttls}")
            require(self.ended is None or self.deleted, "a job does not vanish")
            return
        require(not self.deleted, "a deleted job does not come back")
        require(record.attempt >= self.attempt, "attempts only grow")
        self.attempt = record.attempt
        if record.terminal:
            require(min(ttls) > 0, f"what has ended expires: {ttls}")
            require(self.ended in (None, record), f"what has ended does not change: {self.ended} -> {record}")
            require(isinstance(events[-1], Token) is False, "a terminal record has its end in the log")
            self.ended = record
        else:
            require(max(ttls) < 0, f"what lives does not expire: {ttls}")
            require(self.ended is None, f"what has ended does not live again: {self.ended} -> {record}")
        if record.state == "completed":
            require(
                record.completion_tokens == self.length and record.result is not None,
                "completed means complete",
            )

    def listen(self) -> None:
        """Hand out what was published so far, in order."""
        self.live.send([("PING",)])
        while (reply := self.live.read(1)[0])[0] != b"pong":
            event = decode_event(reply[2])
            for client in self.clients:
                client.hear(event)

    def move(self) -> None:
        owners, clients = self.owners, self.clients
        moves: list[tuple[float, str, Callable[[], None]]] = [
            (60, "owner", lambda: self.random.choice(owners[: self.random.choice((1, 1, 1, 2, 3))]).act()),
            (10, "catch up", lambda: self.random.choice(clients).catch_up()),
            (3, "reconnect", lambda: self.random.choice(clients).reconnect()),
            (3, "die", lambda: self.random.choice(owners).die()),
            (1, "cancel", self.cancel),
            (2, "snapshot", self.take_snapshot),
            (1, "rewind", self.rewind),
            (1, "delete", self.delete),
        ]
        _, name, act = self.random.choices(moves, [weight for weight, *_ in moves])[0]
        self.trace.append(name)
        act()

    def play(self, moves: int) -> None:
        for _ in range(moves):
            self.move()
            self.listen()
            self.check()
        self.settle()

    def settle(self) -> None:
        """Peace: one owner is left alone with the job, and every client reads to the end."""
        owner = self.owners[0]
        for _ in range(200):
            record = self.ledger.record(self.job.id)
            if self.deleted or (record is not None and record.terminal):
                break
            owner.act()
            self.listen()
            self.check()
        else:
            raise Violation("a job is lost: nobody can finish it")
        for client in self.clients:
            client.catch_up()
            if not self.deleted and not client.reader.ended:
                raise Violation(f"a reader never hears the end: {client.got}")
        late = Client(self)
        late.catch_up()
        if not self.deleted and self.ended and self.ended.state == "completed":
            require(
                len([e for e in late.got if isinstance(e, Token)]) == self.length, "a late reader has all"
            )
        require(not any(isinstance(e, Failed) for e in late.got), "no hole was papered over")
