from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from wire.job import SamplingParams
from worker.link import MAX_FRAME, Abort, Admit, FromEngine, Link, LinkClosed, Output, Stepped, Stop, ToEngine

Ends = tuple[Link[FromEngine], Link[ToEngine]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Link.of_parent(ours), Link.of_engine(theirs)


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Link[ToEngine]]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, Link.of_engine(theirs)


def admit(length: int) -> Admit:
    return Admit(seq=1, prompt=[97] * length, output=[5], params=SamplingParams(max_new_tokens=3, seed=2))


def stepped(seq: int) -> Stepped:
    return Stepped(
        outputs=[Output(seq, 65, -0.5)], left=[seq], free_slots=1, free_blocks=2, steps=3, compilations=0
    )


def test_frames_arrive_whole_and_in_order_both_ways(ends: Ends) -> None:
    parent, engine = ends
    parent.send(admit(3))
    parent.send(Abort(seq=1))
    assert engine.receive() == [admit(3), Abort(seq=1)]
    engine.send(stepped(1))
    assert parent.receive() == [stepped(1)]


def test_nothing_there_is_no_frame(ends: Ends) -> None:
    parent, engine = ends
    parent.wait(0)
    assert parent.receive() == []
    assert engine.receive() == []


def test_a_frame_in_pieces_is_one_frame(raw: tuple[socket.socket, Link[ToEngine]]) -> None:
    sock, engine = raw
    body = b"\x82\xa4type\xa5abort\xa3seq\x07"
    for byte in struct.pack(">I", len(body)) + body[:-1]:
        sock.send(bytes([byte]))
        assert engine.receive() == []
    sock.send(body[-1:])
    assert engine.receive() == [Abort(seq=7)]


def test_what_the_socket_does_not_take_is_kept_and_flushed_later(ends: Ends) -> None:
    parent, engine = ends
    sent = [admit(100_000) for _ in range(10)]
    for frame in sent:
        parent.send(frame)
    assert parent.backlog > 0
    arrived: list[ToEngine] = []
    while parent.backlog:
        arrived += engine.receive()
        parent.flush()
    assert arrived + engine.receive() == sent


def test_frames_sent_before_the_end_are_read_before_the_end(ends: Ends) -> None:
    parent, engine = ends
    parent.send(Stop())
    parent.close()
    assert engine.receive() == [Stop()]
    with pytest.raises(LinkClosed):
        engine.receive()


def test_sending_to_nobody_is_an_error(ends: Ends) -> None:
    parent, engine = ends
    engine.close()
    with pytest.raises(LinkClosed):
        parent.send(Stop())


def test_a_length_that_no_frame_has_ends_the_link(raw: tuple[socket.socket, Link[ToEngine]]) -> None:
    sock, engine = raw
    sock.send(struct.pack(">I", MAX_FRAME + 1))
    with pytest.raises(LinkClosed, match="its stream is broken"):
        engine.receive()
