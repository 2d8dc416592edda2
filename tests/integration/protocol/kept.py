"""What is promised in that world, whatever happens: looked at after every step, and at the end of the story."""

from __future__ import annotations

import re
from typing import Any

from tests.integration.protocol.operation import ALL
from tests.integration.protocol.reading import Reading, begin, by_choice
from tests.integration.protocol.world import Promise, World
from wire.codec import decode_event
from wire.commands import MAX_STALLS
from wire.events import Cancelled, Done, Expired, Resumed, Started, Terminal, Token
from wire.keys import DEAD, GATEWAYS, UNACKED_PREFIX, gone_key, unacked_key
from wire.open import Suspect
from wire.record import Record
from worker.assignment import Broken, Completed, Verdict, Withdrawn

ROUNDS = 40
"""Whole turns of every worker in which all that was promised must have happened, once nothing goes wrong any more."""
EXPECTED: dict[type[Verdict], set[str]] = {
    Completed: {"completed"}, Withdrawn: {"cancelled"}, Broken: {"failed", "expired"}
}  # fmt: skip
LEFTOVERS = re.compile(r"sagrada:live|sagrada:q:[^:]*:(bell|taken|turns)")
"""Keys that may stay for ever."""


def require(holds: object, promise: str) -> None:
    if not holds:
        raise AssertionError(promise)


class CheckedWorld(World):
    """A world in which every promise is kept, or an AssertionError says which is not."""

    def heard(self, job_id: str, verdict: Verdict) -> None:
        """A worker tells Celery what became of the job."""
        promise = next(p for p in self.promises if p.id == job_id)
        if isinstance(verdict, Completed):
            texts, result = ["".join(map(chr, text)) for text in promise.texts], verdict.result
            told = [choice.text for choice in result.choices] or [result.text]
            require(told == texts and result.text == texts[0], f"{job_id} said {told}, not {texts}")
        if self.calm and promise.accepted and not promise.unwanted:
            record = self.look([promise])[0][1]
            state = record.state if record else "unknown"
            require(state in EXPECTED[type(verdict)], f"Celery hears {verdict}, {job_id} is {state}")

    def unheld(self, suspect: Suspect) -> None:
        """A reconciler takes the job for lost: now, for it may be found again before it is queued."""
        require(suspect.job_id not in self.messages(), f"{suspect.job_id} is not lost: it has a message")
        require(suspect.boot.encode() not in self.boots(), f"{suspect.job_id} is not lost: its owner lives")

    def listen(self) -> None:
        """Hand out what was published, in order."""
        self._live.send([("PING",)])
        of = {p.id.encode(): p for p in self.promises}
        while (reply := self._live.read(1)[0])[0] != b"pong":
            promise = of[reply[2].partition(b"{")[2].partition(b"}")[0]]
            promise.reading.hear(decode_event(reply[3]))

    def check(self) -> None:
        """After every step."""
        self.listen()
        for promise, (rows, record, ttls) in zip(self.promises, self.look(self.promises), strict=True):
            self._check_log(promise, rows, record)
            self._check_record(promise, record, ttls)
            promise.reading.check(promise.texts)
        dead = {*self.server.redis.zrange(DEAD, 0, -1)}
        require(dead <= self.mortal, f"declared dead with a lease: {dead - self.mortal}")
        self._check_messages()

    def _check_log(self, promise: Promise, rows: list[Any], record: Record | None) -> None:
        attempt, end = 0, None
        tokens: list[Token] = []
        for id, (_, data) in rows:
            event = decode_event(data)
            major, minor = map(int, id.split(b"-"))
            require(end is None, f"{promise.id}: nothing follows the end")
            if isinstance(event, Started | Resumed):
                require(
                    major > attempt and minor == len(tokens), f"{promise.id}: an attempt begins at the end"
                )
                attempt = event.attempt
            elif isinstance(event, Token):
                require(major == attempt, f"{promise.id}: attempt {major} appends within {attempt}")
                require(event.seq == len(tokens) == minor - 1, f"{promise.id}: no gap, no duplicate: {event}")
                tokens.append(event)
            else:
                require(event.seq == len(tokens) == minor - 1, f"{promise.id}: the end is next: {event}")
                require(_counts(event, promise, len(tokens)), f"{promise.id}: {event} is counted once")
                end = event
        said = by_choice(tokens, len(promise.texts))
        require(begin(said, promise.texts), f"{promise.id} has the one true text of each choice: {said}")
        if record and record.terminal:
            require(end is not None, f"{promise.id} is {record.state}, and its log has no end")
            counted = end and end.usage.completion_tokens
            require(record.completion_tokens == counted, f"{promise.id}: its tokens are counted once")
            require(record.state != "completed" or said == promise.texts, f"{promise.id} is complete: {said}")
        else:
            require(end is None, f"{promise.id} has an end that its record does not know: {record}")
            require(not (promise.several.ranked and tokens), f"{promise.id} tells of losers: {said}")

    def _check_record(self, promise: Promise, record: Record | None, ttls: list[int]) -> None:
        if record is None:
            require(ttls == [-2, -2], f"{promise.id}: record and log go together: {ttls}")
            tombstone = self.server.redis.exists(gone_key(promise.id))
            promise.deleted = promise.deleted or (promise.unwanted and bool(tombstone))
            require(promise.ended is None or promise.deleted, f"{promise.id} vanished")
            return
        require(not promise.deleted, f"{promise.id} was deleted and comes back as {record.state}")
        require(record.attempt >= promise.attempt, f"{promise.id}: attempts only grow")
        promise.attempt = record.attempt
        require(promise.ended in (None, record), f"{promise.id} ended twice: {promise.ended}, {record}")
        if record.terminal:
            promise.ended = record
            require(min(ttls) > 0, f"{promise.id} has ended and expires: {ttls}")
            require(self._may_be(promise, record), f"{promise.id} has no reason to be {record}")
        else:
            require(max(ttls) < 0, f"{promise.id} lives and does not expire: {ttls}")

    def _may_be(self, promise: Promise, record: Record) -> bool:
        match record.state:
            case "cancelled":
                return promise.cancelled or promise.gateway not in ("", f"gateway{self._gateway}")
            case "expired":
                return promise.overdue
            case "failed":
                return promise.broken or record.stalls >= MAX_STALLS
        return True

    def _check_messages(self) -> None:
        """What nobody has claimed is in a queue, or in the hands of a boot that somebody will look at."""
        for p in self.promises:
            if p.accepted and not (p.lost or p.known_to or p.deleted or p.attempt):
                require(self.keeps(p), f"{p.id} was accepted, and nothing is left of it")

    # The end of the story

    def settle(self) -> None:
        """Nothing goes wrong any more: everything that was promised happens, and nothing remains."""
        while self.requests:
            self.go_on(0, ALL)
        for worker in self.workers:
            worker.go_on()
        for _ in range(ROUNDS):
            self.check()
            if not self._open():
                break
            self._round()
        require(not self._open(), f"it never comes to rest: {self._open()}")
        for promise in self.promises:
            self._check_kept(promise)
        self._check_leftovers()

    def _round(self) -> None:
        mine = {worker.boot.id.encode() for worker in self.workers}
        for boot in {*self.boots()} - mine:
            self.lease_ends(boot)
        self.time_passes()
        for worker in self.workers:
            worker.work("all", ALL)
            worker.work("reconciler", ALL)

    def _open(self) -> list[str]:
        redis = self.server.redis
        mine = {worker.boot.id for worker in self.workers}
        left = [f"{id} is open" for id in self.open()]
        left += [f"{id} has a message" for id in self.messages()]
        left += [f"{boot!r} stays" for boot in self.boots() if boot.decode() not in mine]
        left += [f"{boot!r} stays dead" for boot in redis.zrange(DEAD, 0, -1)]
        return left + [f"{worker.boot.id} is at work" for worker in self.workers if not worker.idle]

    def _check_kept(self, promise: Promise) -> None:
        (_, record, _), *_ = self.look([promise])
        if promise.deleted or promise.lost:
            return
        if record is None:
            require(not promise.accepted, f"{promise.id} was accepted and is lost")
            return
        require(record.terminal, f"{promise.id} has not ended: {record}")
        self.read(promise)
        promise.reading.check(promise.texts, ended=True)
        late = Reading()
        late.catch_up(self.gateway_client(), promise.id)
        late.check(promise.texts, ended=True)
        (rows, *_), *_ = self.look([promise])
        logged = sum(isinstance(decode_event(data), Token) for _, (_, data) in rows)
        require(len(late.tokens) == logged, f"who comes late has all: {late.tokens}")

    def _check_leftovers(self) -> None:
        keys = [key.decode() for key in self.server.redis.keys("*")]
        left = [
            k for k in keys if self.server.redis.pttl(k) < 0 and not LEFTOVERS.fullmatch(k) and k != GATEWAYS
        ]
        require(not left, f"these remain: {left}")
        assert unacked_key("") == UNACKED_PREFIX


def _counts(end: Terminal, promise: Promise, logged: int) -> bool:
    """Whether it counts the tokens that were made, once: those of losers, too, which no log has."""
    counted = end.usage.completion_tokens
    made = sum(map(len, promise.candidates))
    if not promise.several.ranked or isinstance(end, Cancelled | Expired):
        return counted == logged
    return counted == made if isinstance(end, Done) else counted <= made
