"""One job's tokens as events, and its end."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec import UNSET

from wire.codec import decode_event
from wire.events import Done, Failed, Token
from wire.job import Job, SamplingParams, Scored
from wire.replies import Claimed
from wire.tokenizer import Tokenizer
from worker.generation import Generation
from worker.script import EOS, write_tokenizer


@cache
def tokenizer() -> Tokenizer:
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return Tokenizer.from_folder(folder)


def generation(tokens: tuple[Token, ...] = (), **params: Any) -> Generation:
    sampling = SamplingParams(**{"max_new_tokens": 5, "seed": 7, **params})
    job = Job(id="j", model="m", params=sampling, ids=(104, 105))
    return Generation(Claimed(job, 2, 99, "c", tokens), job, tokenizer(), (EOS,))


def events(made: Generation) -> list[Token]:
    decoded = [decode_event(entry.data) for entry in made.entries]
    return [event for event in decoded if isinstance(event, Token)]


def test_tokens_become_numbered_events_and_then_the_end() -> None:
    made = generation()
    for id in b"hallo!":
        made.push(0, id, -0.5)
    assert [(event.seq, event.index, event.text) for event in events(made)] == [
        (0, 0, "h"), (1, 1, "a"), (2, 2, "l"), (3, 3, "l"), (4, 4, "o"),
    ]  # fmt: skip
    assert isinstance(made.end, Done)
    assert (made.end.seq, made.end.finish_reason, made.end.seed) == (5, "length", 7)
    assert (made.end.usage.prompt_tokens, made.end.usage.completion_tokens) == (2, 5)
    assert made.result
    assert made.result.text == "hallo"


def test_what_the_engine_ran_ahead_of_the_end_is_dropped() -> None:
    made = generation(stop=("l",))
    for id in b"hallo":
        made.push(0, id, 0.0)
    assert len(made.entries) == 3
    assert made.usage.completion_tokens == 3


def test_unsent_is_what_the_log_does_not_hold() -> None:
    made = generation()
    made.push(0, 104, 0.0)
    made.push(0, 105, 0.0)
    assert [entry.seq for entry in made.unsent] == [0, 1]
    made.sent = 1
    assert [entry.seq for entry in made.unsent] == [1]


def test_a_resumed_job_goes_on_where_it_stood() -> None:
    first = generation()
    for id in b"hal":
        first.push(0, id, -0.5)
    second = generation(tuple(events(first)))
    assert (second.candidates[0].ids, second.unsent) == (list(b"hal"), [])
    for id in b"lo":
        second.push(0, id, -0.5)
    assert [event.seq for event in events(second)] == [0, 1, 2, 3, 4]
    assert second.result
    assert second.result.text == "hallo"


def test_the_likeliest_and_the_prompt_are_told_where_they_were_asked_for() -> None:
    made = generation(top_n=2, prompt_logprobs=True)
    assert made.unscored
    made.score([-1.5])
    assert not made.unscored
    made.push(0, 104, -0.5, ((104, -0.5), (105, -0.75)))
    made.push(0, EOS, -0.25, ((EOS, -0.25), (104, -2.0)))
    first, last = events(made)
    assert first.prompt == (Scored(104, "h", None), Scored(105, "i", -1.5))
    assert first.top == (Scored(104, "h", -0.5), Scored(105, "i", -0.75))
    assert last.prompt is UNSET and last.top == (Scored(EOS, "</s>", -0.25), Scored(104, "h", -2.0))
    again = generation((first,), top_n=2, prompt_logprobs=True)
    assert not again.unscored, "the log tells of it already"


def test_nobody_is_told_who_did_not_ask() -> None:
    made = generation()
    assert not made.unscored
    made.push(0, 104, -0.5)
    assert b"top" not in made.entries[0].data and b"prompt" not in made.entries[0].data


def test_of_the_best_the_first_token_tells_of_the_prompt() -> None:
    made = generation(best_of=2, n=1, do_sample=True, prompt_logprobs=True, max_new_tokens=1)
    made.score([-1.5])
    made.push(0, 104, -0.5)
    made.push(1, 105, -0.25)
    (best,) = [decode_event(entry.data) for entry in made.tail]
    assert isinstance(best, Token) and best.id == 105
    assert best.prompt == (Scored(104, "h", None), Scored(105, "i", -1.5))


def test_a_job_that_was_complete_ends_at_once() -> None:
    first = generation()
    for id in (104, EOS):
        first.push(0, id, -0.5)
    again = generation(tuple(events(first)))
    assert isinstance(again.end, Done)
    assert (again.end.finish_reason, again.unsent) == ("eos_token", [])


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        ({"stop": ("al",)}, "hal"),
        ({"stop": ("al",), "include_stop": False}, "h"),
        ({"stop_token_ids": (ord("l"),)}, "hal"),
        ({"stop_token_ids": (ord("l"),), "include_stop": False}, "ha"),
    ],
)
def test_a_stop_exactly_at_the_resume_point_ends_at_once(stops: dict[str, Any], text: str) -> None:
    first = generation(**stops)
    for id in b"hallo":
        first.push(0, id, -0.5)
    assert len(first.entries) == 3
    again = generation(tuple(events(first)), **stops)
    assert again.end == first.end and again.result and again.result.text == text
    one_less = generation(tuple(events(first)[:-1]), **stops)
    assert one_less.end is None
    one_less.push(0, ord("l"), -0.5)
    assert (one_less.end, one_less.unsent) == (first.end, first.entries[-1:])


def test_the_first_end_stands() -> None:
    made = generation()
    made.push(0, 104, 0.0)
    made.fail("broken")
    made.fail("again")
    made.push(0, 105, 0.0)
    assert made.end == Failed(seq=1, error="broken", usage=made.usage)
    assert made.result is None
