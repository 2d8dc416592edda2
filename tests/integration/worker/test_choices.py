"""Jobs of several choices: each goes on from its own tokens, whoever dies; the best of many come once, with the end."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import pytest
from msgspec import UNSET

from models.step import Sampling
from tests.integration.worker.workers import Office
from tests.support.processes import until
from wire.events import Done, Started, Token
from wire.job import choice_seed
from worker.script import say

COUNT, SEED = 80, 11


def begin(office: Office, size: int, number: int = 0, **more: Any) -> str:
    wanted = {"n": size, "do_sample": True, "ignore_eos": True, **more}
    return office.submit(f"Prompt {number}", COUNT, seed=SEED + number, **wanted)


def texts(office: Office, job: str) -> tuple[list[list[int]], Done]:
    """The tokens of each choice, once the job has ended; nothing in its log is missing or there twice."""
    *tokens, end = [event for event in office.stream(job) if not isinstance(event, Started)]
    assert isinstance(end, Done)
    said = [event for event in tokens if isinstance(event, Token)]
    assert [event.seq for event in said] == list(range(end.seq))
    ids: dict[int, list[int]] = {}
    for event in said:
        assert event.index == len(ids.setdefault(event.choice, []))
        ids[event.choice].append(event.id)
    return [ids[choice] for choice in sorted(ids)], end


def expected(choice: int, number: int = 0) -> list[int]:
    sampling = Sampling(seed=choice_seed(SEED + number, choice), do_sample=True)
    return say(f"Prompt {number}".encode(), sampling, COUNT)


def told(office: Office, job: str) -> Counter[int]:
    """Tokens of each choice so far."""
    return Counter(event.choice for event in office.ledger.read(job) if isinstance(event, Token))


@pytest.mark.parametrize("whom", ["engine", "worker"])
def test_each_choice_goes_on_from_its_own_tokens(office: Office, whom: str) -> None:
    worker = office.start(step=0.02)
    jobs = {begin(office, 3, number): number for number in range(2)}
    until(lambda: all(min(told(office, job)[choice] for choice in range(3)) > 5 for job in jobs))
    if whom == "engine":
        os.kill(worker.engine(), signal.SIGKILL)
    else:
        worker.kill()
        office.start(step=0.0)
    for job, number in jobs.items():
        said, end = texts(office, job)
        assert said == [expected(choice, number) for choice in range(3)]
        assert [each.tokens for each in end.choices] == [COUNT] * 3
        assert end.usage.completion_tokens == 3 * COUNT
        record = office.ledger.record(job)
        assert record and record.attempt == 2 and record.result
        assert [each.seed for each in record.result.choices] == [
            choice_seed(SEED + number, choice) for choice in range(3)
        ]


def test_of_the_best_nothing_is_told_before_the_end(office: Office) -> None:
    worker = office.start(step=0.02)
    best, beside = begin(office, 2, best_of=2), begin(office, 1, 5)
    until(lambda: told(office, beside)[0] > 20)
    assert not told(office, best)
    os.kill(worker.engine(), signal.SIGKILL)
    said, end = texts(office, best)
    assert [len(text) for text in said] == [COUNT, COUNT] and len(end.choices) == 2
    assert texts(office, beside)[0] == [expected(0, 5)]


@pytest.mark.parametrize("whom", ["engine", "worker"])
def test_the_prompt_is_scored_once_and_the_likeliest_are_told_whoever_dies(office: Office, whom: str) -> None:
    worker = office.start(step=0.02)
    job = begin(office, 2, top_n=3, prompt_logprobs=True)
    until(lambda: min(told(office, job)[choice] for choice in range(2)) > 5)
    if whom == "engine":
        os.kill(worker.engine(), signal.SIGKILL)
    else:
        worker.kill()
        office.start(step=0.0)
    texts(office, job)
    first, *others = [event for event in office.ledger.read(job) if isinstance(event, Token)]
    assert len(others) == 2 * COUNT - 1 and all(each.prompt is UNSET for each in others)
    assert [each.id for each in first.prompt or ()] == list(b"Prompt 0")
    assert [each.logprob is None for each in first.prompt or ()] == [True] + [False] * 7
    for each in (first, *others):
        assert len(each.top or ()) == 3 and each.top
        assert (each.top[0].id, each.top[0].logprob) == (each.id, each.logprob), "the scripted model says so"


def test_a_choice_that_stops_leaves_its_slot_to_others(office: Office) -> None:
    office.start(step=0.01, SLOTS="4", LOOKAHEAD="0")
    stop = bytes(expected(1)[:40]).decode(errors="ignore")[-20:]
    first = begin(office, 4, stop=[stop])
    said, end = texts(office, first)
    assert end.choices[1].finish_reason == "stop_sequence" and len(said[1]) < COUNT
    assert [
        len(text) for choice, text in enumerate(said) if choice != 1 and end.choices[choice].tokens == COUNT
    ]
    assert texts(office, begin(office, 4, 3))[0] == [expected(choice, 3) for choice in range(4)]


def test_cancelling_takes_all_of_them_out(office: Office) -> None:
    office.start(step=0.05, SLOTS="4", LOOKAHEAD="0")
    job = begin(office, 4)
    until(lambda: told(office, job).total() > 4)
    office.cancel(job)
    assert texts(office, begin(office, 4, 3))[0] == [expected(choice, 3) for choice in range(4)]
