"""The publisher's decisions, with a ledger that answers as it is told and an engine that is a list of frames."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest

from tests.support.intake import Intake
from tests.unit.worker.test_supervisor import READY
from wire.commands import MAX_STALLS, release_command
from wire.errors import JobFailed, JobNotFound, ValidationError
from wire.job import Job, Result, SamplingParams, State, Usage
from wire.record import Record
from wire.replies import AlreadyTerminal, Claimed, ClaimReply, Gone, Poisoned
from wire.tokenizer import Tokenizer
from worker.assignment import (
    Assignment,
    Broken,
    Completed,
    Left,
    Returned,
    Settled,
    TimedOut,
    Verdict,
    Withdrawn,
)
from worker.clerk import Fate
from worker.config import Config
from worker.desk import AHEAD
from worker.intake import Shop
from worker.jobs import Jobs
from worker.link import Abort, Admit, Allow, Output, SequenceFailed, Stepped, ToEngine
from worker.meter import Meter
from worker.pipeline import Away
from worker.script import write_tokenizer

RECORD = Record(
    model="m", digest="", queue="q", state="in_progress", attempt=2, boot="other", stalls=0, prompt_tokens=1,
    completion_tokens=0, created=1, started=1, finished=0, deadline=9, result=None, error="", error_type="",
)  # fmt: skip


@cache
def tokenizer() -> Tokenizer:
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return Tokenizer.from_folder(folder)


def job(id: str, tokens: int = 3, **params: Any) -> Job:
    return Job(id=id, model="m", params=SamplingParams(max_new_tokens=tokens, seed=1, **params), ids=(65, 66))


class Clerk:
    """Answers as `answers` says; writes are taken, unless `fates` says otherwise."""

    def __init__(self) -> None:
        self.answers: dict[str, ClaimReply] = {}
        self.fates: dict[str, Fate] = {}
        self.records_of: dict[str, Record | None] = {}
        self.alive = False
        self.away = False
        self.claims: list[list[str]] = []
        self.told: list[Any] = []

    def write(self, assignments: list[Assignment]) -> dict[Assignment, Fate]:
        if self.away:
            raise Away
        fates = {}
        for assignment in assignments:
            generation = assignment.generation
            if generation is None:
                continue
            if assignment.job_id in self.fates:
                fates[assignment] = self.fates[assignment.job_id]
            elif generation.end:
                fates[assignment] = Fate.FINISHED
            generation.sent = len(generation.entries)
        return fates

    def claim(self, assignments: list[tuple[Assignment, Job | None]]) -> list[ClaimReply]:
        ids = [assignment.job_id for assignment, _ in assignments]
        self.claims += [ids] if ids else []
        return [self.answers.get(id) or Claimed(job(id), 1, 0, "c", ()) for id in ids]

    def records(self, ids: list[str]) -> list[Record | None]:
        return [self.records_of.get(id) for id in ids]

    def live(self, boots: list[str]) -> list[bool]:
        return [self.alive for _ in boots]

    def tell(self, commands: list[Any]) -> list[Any]:
        self.told += commands
        return [None for _ in commands]


def number(assignment: Assignment) -> int:
    """Of its one sequence in the engine; 0: it is not there."""
    return next(iter(assignment.numbers), 0)


class Bench:
    """Jobs, and all that they say."""

    def __init__(self) -> None:
        self.clerk = Clerk()
        self.sent: list[ToEngine] = []
        self.verdicts: dict[str, Verdict] = {}
        self.room = 0
        self.meter = Meter("m", "host")
        clerk, intake = cast(Any, self.clerk), cast(Any, Intake())
        self.jobs = Jobs(Config(), clerk, intake, self.sent.append, self._made_room, self.meter)

    def _made_room(self) -> None:
        self.room += 1

    def open(self) -> None:
        self.jobs.open(Shop(0, READY, "m", tokenizer(), ""))

    def take(self, id: str, body: Any = None) -> Assignment:
        assignment = Assignment(
            job_id=id, settle=lambda verdict: self.verdicts.update({id: verdict}), body=body
        )
        self.jobs.roster.expect()
        self.jobs.take(assignment)
        self.jobs.settle_accounts()
        return assignment

    def step(self, *assignments: Assignment, text: str = "x", left: bool = False) -> None:
        outputs = [Output(number(a), ord(text), -0.5) for a in assignments]
        gone = [number(a) for a in assignments] if left else []
        self.jobs.stepped(
            Stepped(outputs=outputs, left=gone, free_slots=1, free_blocks=1, steps=1, compilations=0)
        )
        self.jobs.settle_accounts()

    def admitted(self) -> list[list[int]]:
        return [frame.output for frame in self.sent if isinstance(frame, Admit)]


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.open()
    return made


def test_what_comes_before_the_engine_is_ready_waits_for_it() -> None:
    bench = Bench()
    early = bench.take("a")
    assert bench.clerk.claims == []
    bench.open()
    bench.jobs.settle_accounts()
    assert (bench.clerk.claims, number(early)) == ([["a"]], 1)


def test_a_job_runs_to_its_end(bench: Bench) -> None:
    assignment = bench.take("a")
    for last in (False, False, True):
        bench.step(assignment, left=last)
    verdict = bench.verdicts["a"]
    assert isinstance(verdict, Completed)
    assert (verdict.result.text, verdict.result.finish_reason) == ("xxx", "length")
    assert not bench.jobs.roster.held
    assert (bench.jobs.counters["tokens"], bench.jobs.counters["jobs_completed"]) == (3, 1)


def test_a_stop_string_takes_the_sequence_out_of_the_engine(bench: Bench) -> None:
    bench.clerk.answers["a"] = Claimed(job("a", stop=("y",)), 1, 0, "c", ())
    assignment = bench.take("a")
    inside, before = number(assignment), bench.room
    bench.step(assignment, text="y")
    assert bench.sent[-1] == Abort(seq=inside)
    assert bench.room == before + 1
    assert isinstance(bench.verdicts["a"], Completed)


def test_while_redis_is_away_tokens_are_kept_and_nothing_is_settled(bench: Bench) -> None:
    assignment = bench.take("a")
    bench.clerk.away = True
    for last in (False, False, True):
        with pytest.raises(Away):
            bench.step(assignment, left=last)
    assert bench.verdicts == {}
    assert bench.jobs.behind
    bench.clerk.away = False
    bench.jobs.settle_accounts()
    assert isinstance(bench.verdicts["a"], Completed)


def test_a_job_may_be_so_far_ahead_of_its_log_and_no_farther(bench: Bench) -> None:
    bench.clerk.answers["a"] = Claimed(job("a", tokens=1000), 1, 0, "c", ())
    assignment = bench.take("a")

    def allowed() -> list[int]:
        return [frame.allowed for frame in bench.sent if isinstance(frame, Admit | Allow)]

    assert allowed() == [AHEAD]
    bench.clerk.away = True
    for _ in range(AHEAD):
        with pytest.raises(Away):
            bench.step(assignment)
    assert allowed() == [AHEAD] and bench.jobs.most_unlogged == AHEAD
    bench.clerk.away = False
    bench.jobs.settle_accounts()
    for _ in range(AHEAD):
        bench.step(assignment)
    assert allowed() == [AHEAD, 2 * AHEAD, 2 * AHEAD + AHEAD // 2, 3 * AHEAD]


def test_an_engine_s_death_returns_its_jobs_as_suspects(bench: Bench) -> None:
    first, second = bench.take("a"), bench.take("b")
    bench.step(first, second)
    bench.jobs.engine_died()
    assert bench.verdicts == {}, "not before the ledger knows"
    bench.clerk.told.clear()
    bench.jobs.settle_accounts()
    assert bench.clerk.told == [release_command(id, 1, engine_died=True) for id in "ab"]
    assert bench.verdicts == {"a": Returned(), "b": Returned()}
    assert not bench.jobs.roster.held


def test_what_was_not_in_the_engine_when_it_died_is_returned_without_blame(bench: Bench) -> None:
    bench.clerk.answers = {id: Claimed(job(id), 2, 0, "d", (), suspect=True) for id in "ab"}
    tried, parked = bench.take("a"), bench.take("b")
    assert (number(tried) > 0, number(parked)) == (True, 0)
    bench.jobs.engine_died()
    bench.clerk.told.clear()
    late = bench.take("c")
    assert bench.clerk.told == [release_command("a", 2, engine_died=True), release_command("b", 2)]
    assert late.generation is None
    assert bench.verdicts == {id: Returned() for id in "abc"}


def test_a_job_that_ended_as_its_engine_died_is_finished(bench: Bench) -> None:
    assignment = bench.take("a")
    bench.clerk.away = True
    bench.jobs.engine_died()
    bench.jobs.time_out(assignment, TimedOut(1.0), "the time limit of 1 s passed")
    bench.clerk.away = False
    bench.jobs.settle_accounts()
    assert bench.verdicts == {"a": TimedOut(1.0)}


def test_a_suspect_that_is_cancelled_while_it_waits_is_never_tried(bench: Bench) -> None:
    bench.clerk.answers = {id: Claimed(job(id), 2, 0, "d", (), suspect=True) for id in "ab"}
    tried, parked = bench.take("a"), bench.take("b")
    bench.clerk.fates["b"], bench.clerk.records_of["b"] = Fate.FENCED, RECORD
    bench.jobs.settle_accounts()
    bench.step(tried)
    bench.step(tried)
    assert (parked in bench.jobs.roster.held, number(parked)) == (True, 0), "who has it now is not known yet"


def test_suspects_that_must_enter_one_by_one_each_after_the_other_s_first_token(bench: Bench) -> None:
    bench.clerk.answers = {id: Claimed(job(id), 2, 0, "d", (), suspect=True, alone=True) for id in "abc"}
    suspects = [bench.take(id) for id in "abc"]
    healthy = bench.take("d")
    assert [number(a) > 0 for a in (*suspects, healthy)] == [True, False, False, True]
    bench.step(healthy)
    assert number(suspects[1]) == 0
    bench.step(suspects[0])
    assert number(suspects[1]) > 0 and number(suspects[2]) == 0
    bench.jobs.failed(SequenceFailed(seq=number(suspects[1]), error="the step failed"))
    bench.jobs.settle_accounts()
    assert number(suspects[2]) > 0
    assert bench.jobs.counters["resumed"] == 3


def test_a_failed_sequence_fails_its_job(bench: Bench) -> None:
    assignment = bench.take("a")
    bench.jobs.failed(SequenceFailed(seq=number(assignment), error="the step failed"))
    bench.jobs.settle_accounts()
    verdict = bench.verdicts["a"]
    assert isinstance(verdict, Broken)
    assert isinstance(verdict.error, JobFailed)


@pytest.mark.parametrize(
    ("state", "verdict"),
    [("cancelled", Withdrawn), ("completed", Completed), ("failed", Broken), ("expired", Broken)],
)
def test_a_claim_may_find_the_job_ended(bench: Bench, state: State, verdict: type[Verdict]) -> None:
    result = Result(text="", finish_reason="length", seed=1, usage=Usage())
    bench.clerk.answers["a"] = AlreadyTerminal(replace(RECORD, state=state, result=result))
    bench.take("a")
    assert isinstance(bench.verdicts["a"], verdict)
    assert bench.sent == []


def test_an_unknown_job_and_a_poisonous_one_fail(bench: Bench) -> None:
    bench.clerk.answers = {"a": Gone(), "b": Poisoned(job("b"), MAX_STALLS + 1, "c", ())}
    bench.take("a")
    bench.take("b")
    bench.jobs.settle_accounts()
    errors = [verdict.error for verdict in bench.verdicts.values() if isinstance(verdict, Broken)]
    assert [type(error) for error in errors] == [JobNotFound, JobFailed]
    assert bench.sent == []


def test_a_fenced_job_is_acked_only_when_somebody_answers_for_it(bench: Bench) -> None:
    assignment = bench.take("a")
    inside = number(assignment)
    bench.clerk.fates["a"], bench.clerk.records_of["a"] = Fate.FENCED, RECORD
    bench.step(assignment)
    assert bench.sent[-1] == Abort(seq=inside)
    assert bench.verdicts == {}
    bench.clerk.alive = True
    bench.jobs.tick(0)
    bench.jobs.settle_accounts()
    assert isinstance(bench.verdicts["a"], Settled)


def test_a_time_limit_fails_the_job_and_speaks_celery_s_words(bench: Bench) -> None:
    assignment = bench.take("a")
    bench.jobs.time_out(assignment, TimedOut(1.0), "the time limit of 1 s passed")
    bench.jobs.settle_accounts()
    assert bench.verdicts["a"] == TimedOut(1.0)


def test_a_bad_request_is_refused_and_a_good_one_runs(bench: Bench) -> None:
    bench.take("a", ((), {"inputs": ""}))
    bench.take("b", ((), {"inputs": "A", "parameters": {"max_new_tokens": 2}}))
    verdict = bench.verdicts["a"]
    assert isinstance(verdict, Broken)
    assert isinstance(verdict.error, ValidationError)
    assert bench.clerk.claims == [["b"]]


@pytest.mark.parametrize("away", [False, True])
def test_handing_over_gives_everything_back(bench: Bench, away: bool) -> None:
    """At once; while Redis is away the message stays with the boot, and goes to others when its lease ends."""
    running, ended = bench.take("a"), bench.take("b")
    bench.clerk.away = True
    for _ in range(3):
        with pytest.raises(Away):
            bench.step(ended)
    bench.clerk.away = away
    bench.jobs.hand_over()
    assert isinstance(bench.verdicts["a"], Left if away else Returned)
    assert isinstance(bench.verdicts["b"], Left if away else Completed)
    assert number(running) == 0
    assert not bench.jobs.roster.in_engine
