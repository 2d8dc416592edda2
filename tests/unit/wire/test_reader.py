"""The reader without Redis: every order in which live events and log reads can reach it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.events import Cancelled, Done, Event, Failed, Resumed, Started, Token
from wire.job import Usage
from wire.reader import NEED_LOG, Reader


def token(seq: int) -> Token:
    return Token(seq=seq, index=seq, id=seq, text=str(seq), logprob=None, special=False)


def done(seq: int) -> Done:
    return Done(seq=seq, finish_reason="length", seed=1, usage=Usage.of(1, seq))


def test_live_events_in_order_pass_through() -> None:
    reader = Reader()
    for event in (token(0), token(1), done(2)):
        assert reader.offer(event) == [event]
    assert reader.ended
    assert reader.offer(token(2)) == []


@pytest.mark.parametrize(("after", "news"), [(1, True), (2, False), (3, True)])
def test_the_end_of_a_log_that_lost_tokens_is_told(after: int, news: bool) -> None:
    """Only one that has the seq of the last that the client had may be that one."""
    reader = Reader(after)
    assert reader.from_log([token(0), token(1), done(2)]) == [done(2)] * news
    assert reader.ended


def test_what_is_known_is_dropped() -> None:
    reader = Reader(after=4)
    assert reader.offer(token(4)) == []
    assert reader.offer(token(5)) == [token(5)]
    assert reader.offer(token(5)) == []
    assert reader.after == 5


@pytest.mark.parametrize("event", [token(2), done(2), Resumed(attempt=2, seq=0)])
def test_what_does_not_fit_needs_the_log(event: Event) -> None:
    reader = Reader(after=0)
    assert reader.offer(event) is NEED_LOG
    assert reader.after == 0


def test_the_log_fills_the_gap_and_tells_of_the_new_attempt_once() -> None:
    reader = Reader()
    reader.offer(token(0))
    resumed = Resumed(attempt=2, seq=2)
    log: list[Event] = [token(1), resumed, token(2)]
    assert reader.offer(resumed) is NEED_LOG
    assert reader.from_log(log) == log
    assert reader.from_log(log) == []
    assert reader.offer(resumed) == []
    assert reader.offer(token(3)) == [token(3)]


def test_start_markers_are_nobodys_business() -> None:
    reader = Reader()
    assert reader.offer(Started(attempt=1, seq=0)) == []
    assert reader.from_log([Started(attempt=1, seq=0), token(0)]) == [token(0)]


def test_an_end_that_comes_early_ends() -> None:
    """Redis lost the tokens that this reader has: the job went on without them."""
    reader = Reader()
    reader.from_log([token(0), token(1), token(2)])
    end = Cancelled(seq=1)
    assert reader.offer(end) == [end]
    assert reader.ended


@pytest.mark.parametrize("feed", ["offer", "from_log"])
def test_an_end_that_the_client_has_is_not_repeated(feed: str) -> None:
    reader = Reader(after=3)
    assert (reader.offer(done(3)) if feed == "offer" else reader.from_log([done(3)])) == []
    assert reader.ended


def test_a_hole_in_the_log_of_a_running_job_is_waited_out() -> None:
    reader = Reader()
    assert reader.from_log([token(0), token(2)]) == [token(0)]
    assert reader.offer(token(3)) is NEED_LOG
    assert reader.from_log([token(1), token(2), token(3)]) == [token(1), token(2), token(3)]


def test_a_hole_in_the_log_of_a_finished_job_is_said() -> None:
    reader = Reader()
    first, end = reader.from_log([token(0), token(2), done(3)])
    assert first == token(0)
    assert isinstance(end, Failed)
    assert "tokens 1 to 2" in end.error
    assert reader.ended


def story(length: int, attempts: list[int]) -> list[Event]:
    """A whole log: `attempts` tells before which tokens a new attempt began."""
    events: list[Event] = [Started(attempt=1, seq=0)]
    attempt = 1
    for seq in range(length):
        for _ in range(attempts.count(seq)):
            attempt += 1
            events.append(Resumed(attempt=attempt, seq=seq))
        events.append(token(seq))
    return [*events, done(length)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_lost_doubled_or_late_the_stream_is_whole(data: Any) -> None:
    length = data.draw(st.integers(0, 8), "length")
    log = story(length, data.draw(st.lists(st.integers(0, 8), max_size=3), "attempts"))
    reader, got, read = Reader(), list[Event](), 0
    for written in range(1, len(log) + 1):
        fate = data.draw(st.sampled_from(["heard", "twice", "lost", "late", "read", "again"]), "fate")
        if fate in ("heard", "twice", "late"):
            heard = log[max(0, written - 3)] if fate == "late" else log[written - 1]
            for _ in range(2 if fate == "twice" else 1):
                out = reader.offer(heard)
                got += reader.from_log(log[:written]) if out is NEED_LOG else out
        elif fate == "read":
            got += reader.from_log(log[:written])
        elif fate == "again" and not reader.ended:
            reader = Reader(reader.after)
        read = written
    got += reader.from_log(log[:read])
    plain = [event for event in got if not isinstance(event, Resumed)]
    assert plain == [event for event in log if not isinstance(event, Started | Resumed)]
    assert reader.ended
