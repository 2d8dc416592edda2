"""A subscriber: whatever order log and channel come in, each event is delivered once and in order."""

from __future__ import annotations

import random

import pytest

from gateway import subscriber
from gateway.subscriber import Subscriber
from wire.events import Done, Event, Resumed, Token
from wire.job import Usage


def token(seq: int) -> Token:
    return Token(seq=seq, index=seq, id=seq, text=f"{seq} ", logprob=None, special=False)


def done(seq: int) -> Done:
    return Done(seq=seq, finish_reason="length", seed=1, usage=Usage())


class Recorder(Subscriber):
    def __init__(self, after: int = -1) -> None:
        super().__init__("job", after)
        self.got: list[Event] = []
        self.asked = 0
        self.has_vanished = False
        self.on_need_log = self.ask

    def ask(self) -> None:
        self.asked += 1

    def deliver(self, events: list[Event]) -> None:
        assert events
        self.got += events

    def vanished(self) -> None:
        self.has_vanished = True

    def abandon(self) -> None:
        raise AssertionError("nobody lets it go")

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.got]


def test_live_events_wait_for_the_log() -> None:
    reader = Recorder()
    reader.live([token(2), token(3)])
    assert reader.got == []
    reader.logged([token(0), token(1), token(2)], "there")
    assert reader.seqs == [0, 1, 2, 3] and reader.asked == 0


def test_a_gap_asks_for_the_log_once() -> None:
    reader = Recorder()
    reader.logged([], "there")
    reader.live([token(0), token(2)])
    reader.live([token(3)])
    assert reader.seqs == [0] and reader.asked == 1
    assert not reader.want_log(), "one read is enough"
    reader.logged([token(1), token(2)], "there")
    assert reader.seqs == [0, 1, 2, 3]


def test_a_resumed_job_is_read_again() -> None:
    reader = Recorder()
    reader.logged([token(0)], "there")
    resumed = Resumed(attempt=2, seq=1)
    reader.live([resumed])
    assert reader.asked == 1
    reader.logged([resumed], "there")
    reader.live([token(1), done(2)])
    assert reader.got == [token(0), resumed, token(1), done(2)] and not reader.want_log()


def test_what_cannot_be_held_is_read_again() -> None:
    reader = Recorder()
    many: list[Event] = [token(n) for n in range(subscriber.MAX_HELD + 10)]
    reader.live(many)
    reader.logged([], "there")
    assert reader.seqs == list(range(subscriber.MAX_HELD)) and reader.asked == 1
    reader.logged(many[subscriber.MAX_HELD :], "there")
    assert reader.seqs == list(range(len(many)))


def test_a_deleted_job_ends_its_readers() -> None:
    reader = Recorder()
    reader.logged([], "deleted")
    assert reader.has_vanished
    ended = Recorder()
    ended.logged([token(0), done(1)], "deleted")
    assert not ended.has_vanished, "the end was delivered: nothing is missing"


def test_a_lost_job_gets_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("gateway.subscriber.time.monotonic", lambda: now[0])
    back, gone = Recorder(), Recorder()
    for reader in (back, gone):
        reader.logged([], "lost")
        now[0] += subscriber.RESTORED_WITHIN
        reader.logged([], "lost")
        assert not reader.has_vanished
    back.logged([token(0)], "there")
    now[0] += 1
    for reader in (back, gone):
        reader.logged([], "lost")
    assert gone.has_vanished and not back.has_vanished


def test_silence_is_noticed() -> None:
    reader = Recorder()
    reader.logged([token(0)], "there")
    reader.silent = True
    reader.live([token(1)])
    assert not reader.silent


def test_any_interleaving_of_log_and_channel() -> None:
    """The log is appended to before the channel is written; reads are answered late, messages get lost."""
    for seed in range(300):
        chance = random.Random(seed)
        log: list[Event] = []
        channel: list[Event] = []
        reader = Recorder()
        reading: list[Event] | None = []
        events: list[Event] = [*(token(n) for n in range(30)), done(30)]
        for event in events:
            log.append(event)
            if chance.random() < 0.9:  # else the message is lost
                channel.append(event)
            if chance.random() < 0.5:
                reader.live(channel)
                channel = []
            if reading is None and (reader.asked or chance.random() < 0.1):
                if not reader.asked and not reader.want_log():
                    continue
                reader.asked = 0
                reading = [e for e in log if e.seq >= reader.reader.next_seq]
            elif reading is not None and chance.random() < 0.4:
                reader.logged(reading, "there")
                reading = None
        reader.live(channel)
        if reading is not None:
            reader.logged(reading, "there")
        if reader.asked or reader.want_log():  # the sweep
            reader.logged([e for e in log if e.seq >= reader.reader.next_seq], "there")
        assert reader.seqs == list(range(31)), seed
