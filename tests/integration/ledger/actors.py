"""Those who act in the world of world.py: owners that write one job, clients that read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wire.commands import AlreadyTerminal, Claimed, Gone, Outcome
from wire.events import Done, Event, Resumed, Started, Token
from wire.job import Job, Result, Usage
from wire.ledger import new_claim_id
from wire.reader import NEED_LOG, Reader

if TYPE_CHECKING:
    from tests.integration.ledger.world import World


class Lost(Exception):
    """The reply did not arrive."""


class Violation(AssertionError):
    """A promise of the ledger was broken."""


def token(seq: int, attempt: int) -> Token:
    """Token `seq` of every job; the logprob tells which attempt made it."""
    return Token(seq=seq, index=seq, id=1000 + seq, text=f" {seq}", logprob=float(attempt), special=False)


def require(holds: bool, promise: str) -> None:
    if not holds:
        raise Violation(promise)


@dataclass
class Held:
    job: Job
    claim: str
    attempt: int
    tokens: list[Token]
    unsure: bool = False
    """A reply was lost, or Redis changed: reappend before anything else."""
    ending: bool = False


class Owner:
    """What a worker's publisher does with one job, one command at a time."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.held: Held | None = None
        self.claiming: str | None = None

    def act(self) -> None:
        if self.held is None:
            self.claim()
        elif self.held.unsure:
            self.reconnect(self.held)
        elif self.held.ending or len(self.held.tokens) >= self.world.length:
            self.finish(self.held)
        else:
            self.step(self.held)

    def die(self) -> None:
        self.held = self.claiming = None

    def claim(self) -> None:
        world = self.world
        self.claiming = claim = self.claiming or new_claim_id()
        body = world.job if world.plain else None
        try:
            reply = world.lossy(
                lambda: world.ledger.claim(
                    world.job.id, self.name, claim=claim, body=body, queue="q", max_stalls=99
                )
            )
        except Lost:
            return
        self.claiming = None
        if isinstance(reply, Claimed):
            seqs = [t.seq for t in reply.tokens]
            require(seqs == list(range(len(seqs))), f"claim answers with every token once: {seqs}")
            self.held = Held(reply.job, claim, reply.attempt, list(reply.tokens))
        else:
            require(world.ended is not None or world.deleted, f"a live job is claimed, not {reply}")
            require(isinstance(reply, AlreadyTerminal | Gone), f"{reply}")

    def step(self, held: Held) -> None:
        world = self.world
        new = token(len(held.tokens), held.attempt)
        held.tokens.append(new)
        if len(held.tokens) >= world.length and world.random.random() < 0.5:
            held.ending = True  # the last token goes with the finish
            return
        try:
            outcome = world.lossy(lambda: world.append(held.attempt, new))
        except Lost:
            held.unsure = True
            return
        if outcome is Outcome.FENCED:
            self.held = None
        held.unsure = outcome is Outcome.GONE
        if outcome is Outcome.OK or world.mutant == "publish what was refused":
            world.maybe(0.9, lambda: world.publish(new))

    def reconnect(self, held: Held) -> None:
        if self.world.mutant == "no reappend":
            held.unsure = False
            return
        start = self.world.random.randint(0, len(held.tokens))
        try:
            written = self.world.reappend(self.name, held, start)
            if written.outcome is Outcome.LOST:
                written = self.world.reappend(self.name, held, written.logged)
        except Lost:
            return
        require(written.outcome is not Outcome.LOST, "what the log asks for is what it lacks")
        held.unsure = False
        if written.outcome in (Outcome.FENCED, Outcome.GONE):
            self.held = None

    def finish(self, held: Held) -> None:
        world, count = self.world, len(held.tokens)
        usage = Usage.of(3, count)
        end = Done(seq=count, finish_reason="length", seed=1, usage=usage)
        result = Result(
            text="".join(t.text for t in held.tokens), finish_reason="length", seed=1, usage=usage
        )
        tail = held.tokens[-1:]
        try:
            written = world.lossy(lambda: world.ledger.finish(world.job.id, held.attempt, end, result, tail))
        except Lost:
            held.ending = True
            return
        if written.outcome is Outcome.LOST:
            held.unsure = True
        else:
            self.held = None


@dataclass
class Client:
    """A reader with all its bad luck."""

    world: World
    reader: Reader = field(default_factory=Reader)
    got: list[Event] = field(default_factory=list)
    online: bool = False
    behind: bool = False

    def hear(self, event: Event) -> None:
        if not self.online or self.world.random.random() < 0.15:
            return
        out = self.reader.offer(event)
        if out is NEED_LOG and self.world.mutant == "deliver over a gap":
            out = [event]
        if out is NEED_LOG:
            self.behind = True
        else:
            self.take(out)

    def catch_up(self) -> None:
        self.online, self.behind = True, False
        self.take(self.reader.from_log(self.world.ledger.read(self.world.job.id, self.reader.after)))

    def reconnect(self) -> None:
        """A new connection that knows only the last seq it was given."""
        if not self.reader.ended:
            self.reader, self.online = Reader(self.reader.after), False

    def take(self, events: list[Event]) -> None:
        self.got += events
        news = [event for event in self.got if not isinstance(event, Resumed)]
        require(not any(isinstance(event, Started) for event in news), "start markers are not delivered")
        tokens = [event for event in news if isinstance(event, Token)]
        require([t.seq for t in tokens] == list(range(len(tokens))), f"no gap, no duplicate: {self.got}")
        require(all(isinstance(e, Token) for e in news[:-1]), f"the end is last and only one: {self.got}")
        if events and not self.world.rewound:
            logged = self.world.logged()
            require(
                all(event in logged for event in events), f"only what the log took is delivered: {events}"
            )
