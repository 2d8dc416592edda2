"""The protocol as a state machine: the code that serves, a real Redis, and every accident between any two commands.

Read the rules as what may happen, and kept.CheckedWorld as what is promised all the same. An operation
of a process stops before every command that it sends; so each rule leaves others amid their work, where they may be
overtaken, lose a command or its answer, or die.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from functools import partial, wraps
from itertools import count
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.protocol.kept import CheckedWorld
from tests.integration.protocol.mutants import MUTANTS, OBVIOUS
from tests.integration.protocol.operation import ALL, Fate
from tests.integration.protocol.server import Server
from tests.integration.protocol.worker import Worker
from tests.integration.protocol.world import Promise, Several

MOST_JOBS, MOST_REQUESTS = 8, 3

commands = st.sampled_from([ALL, 0, 1, 2, 4])
"""How many commands an operation gets to send before it stops at the next, and it is somebody else's turn."""
fates = st.sampled_from([Fate.UNSENT, Fate.UNANSWERED])
which = st.integers(0, 9)
lengths = st.integers(1, 6)
numbers = st.sampled_from([1, 1, 2, 3])
several = st.sampled_from([Several(), Several(), Several(2), Several(3), Several(1, 2), Several(2, 3)])
ends = st.sampled_from(["cancelled", "deleted", "overdue", "abandoned", "failed"])
threads = st.sampled_from(
    ["boot", "loop", "publisher", "finisher", "reconciler", "engine", "all", "all", "busy"]
)
works = st.tuples(which, st.lists(st.tuples(threads, commands), max_size=6))

Act = TypeVar("Act", bound=Callable[..., None])


def happens(**arguments: st.SearchStrategy[Any]) -> Callable[[Act], Act]:
    """A rule: one worker does this and that, and then it happens."""

    def decorate(act: Act) -> Act:
        @wraps(act)
        def step(self: Protocol, work: tuple[int, list[tuple[str, int]]], **drawn: Any) -> None:
            number, turns = work
            for thread, commands in turns:
                self.worker(number).work(thread, commands)
            act(self, **drawn)

        # Its overloads know keywords only one by one.
        made: Any = rule(work=works, **arguments)  # type: ignore[call-overload]
        return cast(Act, made(step))

    return decorate


class Protocol(RuleBasedStateMachine):
    """Two workers, clients and gateways as many as it takes, one Redis and its replica."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.world = CheckedWorld(server)

    def worker(self, number: int) -> Worker:
        return self.world.workers[number % len(self.world.workers)]

    def job(self, number: int) -> Promise:
        return self.world.promises[number % len(self.world.promises)]

    def has_room(self) -> bool:
        return len(self.world.promises) < MOST_JOBS and self.takes_requests()

    def takes_requests(self) -> bool:
        return len(self.world.requests) < MOST_REQUESTS

    @initialize(jobs=st.lists(st.tuples(lengths, several), min_size=2, max_size=4))
    def begin(self, jobs: list[tuple[int, Several]]) -> None:
        """Some jobs have been accepted, and their clients listen."""
        for length, several in jobs:
            promise = self.world.promise(length, several)
            self.world.submit(promise, tokenised=True)
            self.world.read(promise)

    # Clients

    @precondition(has_room)
    @happens(
        length=lengths,
        several=several,
        tokenised=st.booleans(),
        bound=st.booleans(),
        strict=st.booleans(),
        commands=commands,
    )
    def submit(
        self, length: int, several: Several, tokenised: bool, bound: bool, strict: bool, commands: int
    ) -> None:
        """To a gateway: the record, then the message, then, if that was asked for, the replica's word."""
        promise = self.world.promise(length, several, bound=bound, strict=strict)
        self.world.request(promise, partial(self.world.submit, promise, tokenised), commands)

    @precondition(has_room)
    @happens(length=lengths, n=numbers, commands=commands)
    def produce(self, length: int, n: int, commands: int) -> None:
        """Straight to the queue: the message carries the request."""
        promise = self.world.promise(length, Several(n), plain=True)
        self.world.request(promise, partial(self.world.produce, promise), commands)

    @precondition(takes_requests)
    @happens(number=which, commands=commands)
    def read(self, number: int, commands: int) -> None:
        """Look at the log, and follow the channel from then on."""
        promise = self.job(number)
        self.world.request(promise, partial(self.world.read, promise), commands)

    @happens(number=which)
    def stop_listening(self, number: int) -> None:
        self.job(number).reading.disconnected()

    @precondition(lambda self: self.world.requests)
    @happens(number=which, commands=commands)
    def go_on(self, number: int, commands: int) -> None:
        self.world.go_on(number % len(self.world.requests), commands)

    @precondition(takes_requests)
    @happens(number=which, how=ends, commands=commands)
    def end_early(self, number: int, how: str, commands: int) -> None:
        """Its client wants it no more, or is gone; its time is up; the engine cannot go on with it."""
        promise, world = self.job(number), self.world
        if how == "cancelled":
            world.request(promise, partial(world.cancel, promise), commands)
        elif how == "deleted" and promise.accepted and not promise.busy:
            world.request(promise, partial(world.delete, promise), commands)
        elif how == "overdue":
            world.deadline_passes(promise)
        elif how == "abandoned":
            world.gateway_dies()
        elif how == "failed":
            world.sequence_fails(self.worker(number))

    # Workers

    @happens(number=which, job=which)
    def hint(self, number: int, job: int) -> None:
        """Hints come late, twice, to the wrong worker, or never."""
        self.worker(number).publisher.look_at([self.job(job).id])

    @happens(number=which)
    def leave(self, number: int) -> None:
        self.world.worker_leaves(self.worker(number))

    # Accidents

    @happens(number=which, fate=fates)
    def disconnect(self, number: int, fate: Fate) -> None:
        amid = [(worker, thread) for worker in self.world.workers for thread in worker.stopped()]
        if amid:
            worker, thread = amid[number % len(amid)]
            worker.disconnect(thread, fate)

    @precondition(lambda self: self.world.requests)
    @happens(number=which, fate=fates, dies=st.booleans())
    def break_request(self, number: int, fate: Fate, dies: bool) -> None:
        self.world.break_request(number % len(self.world.requests), fate, dies)

    @happens(number=which, fate=fates)
    def die(self, number: int, fate: Fate) -> None:
        self.world.worker_dies(self.worker(number), fate)

    @happens(number=which)
    def engine_dies(self, number: int) -> None:
        self.worker(number).engine.die()

    @happens()
    def replicate(self) -> None:
        self.world.server.replicate()

    @happens()
    def fail_over(self) -> None:
        self.world.fail_over()

    # Time

    @happens(number=which)
    def lease_ends(self, number: int) -> None:
        """Of one that died, or was away, or is only slow."""
        if boots := self.world.boots():
            self.world.lease_ends(boots[number % len(boots)])

    @happens(number=which)
    def outlive(self, number: int) -> None:
        """A lease ends, and the other worker takes over."""
        worker, other = self.worker(number), self.worker(number + 1)
        self.world.lease_ends(worker.boot.id.encode())
        for _ in range(2):
            other.work("all", ALL)

    @happens()
    def time_passes(self) -> None:
        """Enough to look at every job again."""
        self.world.time_passes()

    # Promises

    @invariant()
    def promises_are_kept(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        try:
            self.world.settle()
        finally:
            self.world.close()


@pytest.fixture
def server(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A Redis whose clock and names are the model's, so that a story can be told again."""
    made, boots, claims = Server(redis_url), count(10**8), count(10**8)
    monkeypatch.setattr("worker.pipeline.RespConnection", made.connect)
    for waits in ("boot", "doubts", "pipeline"):
        monkeypatch.setattr(f"worker.{waits}.time", made.clock)
    monkeypatch.setattr("worker.lease.new_boot_id", lambda: f"boot{next(boots)}")
    monkeypatch.setattr("worker.claims.new_claim_id", lambda: f"claim{next(claims)}")
    logging.disable(logging.ERROR)
    yield made
    logging.disable(logging.NOTSET)
    made.close()


def tell(server: Server, stories: int, steps: int, phases: Collection[Phase] = tuple(Phase)) -> None:
    """Run the model; raises at the first broken promise."""
    run_state_machine_as_test(
        cast(Any, lambda: Protocol(server)),
        settings=settings(
            max_examples=stories,
            stateful_step_count=steps,
            phases=phases,
            derandomize=True,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_promise_is_kept(server: Server) -> None:
    tell(server, stories=20, steps=50)


@pytest.mark.full
def test_every_promise_is_kept_in_many_stories(server: Server) -> None:
    tell(server, stories=600, steps=60)


def test_who_leaves_acks_no_end_that_a_failover_has_lost(server: Server) -> None:
    """A story that was broken once: the ack is still to be told, and the boot's thread looks at Redis no more."""
    world = CheckedWorld(server)
    promise = world.promise(3, plain=True)
    world.produce(promise)
    server.replicate()
    worker = world.workers[0]
    for thread in ("loop", *("publisher", "engine") * 3, "publisher", "finisher"):
        worker.work(thread, ALL)
    assert worker.boot.untold == 1
    world.fail_over()
    world.worker_leaves(worker)
    world.check()
    world.settle()
    world.close()


@pytest.mark.parametrize("fault", sorted(OBVIOUS))
def test_the_model_finds_a_fault(server: Server, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The negative control: without this rule of the protocol, some promise is broken."""
    MUTANTS[fault](monkeypatch)
    with pytest.raises(AssertionError):
        tell(server, stories=300, steps=60, phases=[Phase.generate])


@pytest.mark.full
@pytest.mark.parametrize("fault", sorted({*MUTANTS} - OBVIOUS))
def test_the_model_finds_a_rarer_fault(server: Server, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    MUTANTS[fault](monkeypatch)
    with pytest.raises(AssertionError):
        tell(server, stories=300, steps=60, phases=[Phase.generate])
