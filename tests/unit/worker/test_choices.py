"""Jobs of several texts: their events, their ranks, their sequences in the engine, and the room that those take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.worker.test_generation import events, generation
from tests.unit.worker.test_jobs import Bench, job
from wire.codec import decode_event
from wire.commands import Entry
from wire.events import Done, Failed, Token
from wire.job import choice_seed
from wire.replies import Claimed
from worker.assignment import Assignment, Broken, Completed
from worker.generation import Generation
from worker.link import Abort, Admit, Output, SequenceFailed, Stepped
from worker.script import EOS

CAPACITY = 8
SEEDS = [choice_seed(1, choice) for choice in range(3)]


def say(made: Generation, text: bytes, choice: int, logprob: float = -0.5) -> None:
    for id in text:
        made.push(choice, id, logprob)


def decoded(entries: list[Entry]) -> list[Token]:
    return [event for entry in entries if isinstance(event := decode_event(entry.data), Token)]


# What is told


def test_tokens_of_all_choices_are_one_stream() -> None:
    made = generation(n=2)
    for choice, id in ((0, 97), (1, 98), (1, 99), (0, 100)):
        made.push(choice, id, -0.5)
    assert [(event.seq, event.choice, event.index, event.text) for event in events(made)] == [
        (0, 0, 0, "a"), (1, 1, 0, "b"), (2, 1, 1, "c"), (3, 0, 1, "d"),
    ]  # fmt: skip


def test_a_job_ends_with_its_last_choice() -> None:
    made = generation(n=2)
    assert made.push(1, EOS, -0.5) and not made.end
    assert made.push(1, 97, -0.5) and len(made.entries) == 1, (
        "what the engine ran ahead of one's end is dropped"
    )
    say(made, b"hallo", 0)
    assert isinstance(made.end, Done)
    assert (made.end.seq, made.end.usage.completion_tokens) == (6, 6)
    assert [(each.finish_reason, each.tokens) for each in made.end.choices] == [
        ("length", 5),
        ("eos_token", 1),
    ]
    assert made.result and [each.text for each in made.result.choices] == ["hallo", ""]
    assert [each.seed for each in made.end.choices] == [7, choice_seed(7, 1)]


def test_each_goes_on_where_it_stood() -> None:
    first = generation(n=3)
    say(first, b"ha", 0)
    say(first, b"you!!", 2)
    second = generation(tuple(events(first)), n=3)
    assert [bytes(each.ids) for each in second.candidates] == [b"ha", b"", b"you!!"]
    assert [each.finish for each in second.candidates] == [None, None, "length"]
    say(second, b"llo", 0)
    say(second, b"there", 1)
    assert second.result and [each.text for each in second.result.choices] == ["hallo", "there", "you!!"]
    assert [event.seq for event in events(second)] == list(range(15))


@pytest.mark.parametrize(
    ("n", "told"), [(1, ["third"]), (2, ["third", "first"]), (3, ["third", "first", "secon"])]
)
def test_the_likeliest_are_told_at_the_end(n: int, told: list[str]) -> None:
    made = generation(n=n, best_of=3)
    say(made, b"first", 0, -0.5)
    say(made, b"secon", 1, -0.9)
    assert not made.unsent and not made.tail and not made.end
    say(made, b"third", 2, -0.1)
    assert not made.entries, "nothing is appended one by one"
    tokens = decoded(made.tail)
    assert [token.seq for token in tokens] == list(range(5 * n))
    texts = ["".join(token.text for token in tokens if token.choice == choice) for choice in range(n)]
    assert texts == told and tokens == sorted(tokens, key=lambda token: (token.choice, token.index))
    assert made.result and made.result.text == told[0]
    assert [each.text for each in made.result.choices] == (told if n > 1 else [])
    assert isinstance(made.end, Done)
    assert (made.end.seq, made.end.seed) == (5 * n, choice_seed(7, 2))
    assert made.end.usage.completion_tokens == 15, "losers are work, too"


def test_the_mean_decides_and_not_the_sum() -> None:
    made = generation(best_of=2)
    say(made, b"hallo", 0, -0.4)
    made.push(1, 97, -0.6)
    made.push(1, EOS, -0.6)
    assert made.result and made.result.text == "hallo"


def test_of_equals_the_first_is_the_best() -> None:
    made = generation(best_of=2)
    say(made, b"later", 1)
    say(made, b"first", 0)
    assert made.result and made.result.text == "first"


def test_of_candidates_that_failed_nothing_is_told() -> None:
    made = generation(best_of=2)
    say(made, b"hallo", 0)
    made.fail("broken")
    assert (made.tail, made.result) == ([], None)
    assert made.end == Failed(seq=0, error="broken", usage=made.usage)


# In the engine


class Several(Bench):
    """One job, `n` of its texts."""

    def begin(self, tokens: tuple[Token, ...] = (), **params: Any) -> Assignment:
        self.open()
        self.clerk.answers["a"] = Claimed(job("a", **params), 1, 0, "c", tokens)
        return self.take("a")

    @property
    def free(self) -> int:
        return self.jobs.roster.room(CAPACITY)

    @property
    def admits(self) -> list[Admit]:
        return [frame for frame in self.sent if isinstance(frame, Admit)]

    @property
    def aborted(self) -> list[int]:
        return [frame.seq for frame in self.sent if isinstance(frame, Abort)]

    def one(self, seq: int, text: str = "x") -> None:
        outputs = [Output(seq, ord(text), -0.5)]
        self.jobs.stepped(
            Stepped(outputs=outputs, left=[], free_slots=1, free_blocks=1, steps=1, compilations=0)
        )
        self.jobs.settle_accounts()


def test_choices_that_have_nothing_yet_go_in_together() -> None:
    bench = Several()
    first, second, third = bench.begin(n=3).numbers
    (frame,) = bench.admits
    assert (frame.seq, frame.params.seed) == (first, SEEDS[0])
    assert frame.siblings == ((second, SEEDS[1]), (third, SEEDS[2]))


def test_one_that_has_begun_goes_in_by_itself_and_one_that_has_ended_not_at_all() -> None:
    said = generation(n=3, max_new_tokens=3)
    say(said, b"x", 1)
    say(said, b"xyz", 0)
    bench = Several()
    assignment = bench.begin(tuple(events(said)), n=3)
    assert sorted(assignment.numbers.values()) == [1, 2]
    assert [(frame.params.seed, frame.output, frame.siblings) for frame in bench.admits] == [
        (SEEDS[1], [ord("x")], ()),
        (SEEDS[2], [], ()),
    ]


def test_every_sequence_takes_room_until_it_ends() -> None:
    bench = Several()
    first, second, third = bench.begin(n=3, stop=("!",)).numbers
    assert bench.free == CAPACITY - 3
    bench.one(second, "!")
    assert (bench.free, bench.aborted, bench.verdicts) == (CAPACITY - 2, [second], {})
    bench.one(first, "!")
    assert bench.free == CAPACITY - 1
    bench.one(third, "!")
    assert bench.free == CAPACITY and isinstance(bench.verdicts["a"], Completed)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_the_death_of_their_engine_gives_the_room_back(left: int) -> None:
    bench = Several()
    numbers = list(bench.begin(n=3, stop=("!",)).numbers)
    for seq in numbers[left:]:
        bench.one(seq, "!")
    bench.jobs.engine_died()
    bench.jobs.settle_accounts()
    assert bench.free == CAPACITY and not bench.jobs.roster.in_engine


def test_the_failure_of_one_is_that_of_all() -> None:
    bench = Several()
    first, second, third = bench.begin(n=3).numbers
    bench.jobs.failed(SequenceFailed(seq=second, error="the step failed"))
    bench.jobs.settle_accounts()
    assert sorted(bench.aborted) == [first, third] and bench.free == CAPACITY
    assert isinstance(bench.verdicts["a"], Broken)


def test_candidates_never_wait_for_a_log_that_they_do_not_write() -> None:
    bench = Several()
    bench.begin(tokens=(), n=1, best_of=2)
    (frame,) = bench.admits
    assert frame.allowed >= frame.params.max_new_tokens
