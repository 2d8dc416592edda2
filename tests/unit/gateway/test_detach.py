"""A detached socket: framing, slow clients, clients that leave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from gateway.clock import Clock
from gateway.detach import Detached, Poller, respond
from gateway.exchange import MAX_UNSENT, Blocking, Exchange
from tests.support.processes import until

HEADERS = {"Content-Type": "text/plain"}
Make = Callable[..., tuple[socket.socket, Detached]]


@pytest.fixture(scope="module")
def poller() -> Poller:
    clock = Clock()
    clock.start()
    poller = Poller(clock)
    poller.start()
    return poller


@pytest.fixture
def make(poller: Poller) -> Iterator[Make]:
    """(client's end, exchange)."""
    clients: list[socket.socket] = []

    def pair(chunked: bool = True, common: dict[str, str] | None = None) -> tuple[socket.socket, Detached]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), timeout=10)
            server, _ = listener.accept()
        clients.append(client)
        with server:
            return client, Detached(poller, server, chunked, common)

    yield pair
    for client in clients:
        client.close()
    until(lambda: not len(poller), 10, "all sockets forgotten")


def rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_whole_answer(make: Make) -> None:
    client, exchange = make()
    exchange.answer(404, HEADERS, b"no")
    exchange.write(b"late")
    assert rest(client) == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    )


def test_what_the_application_says_of_every_answer_is_in_its_head(make: Make) -> None:
    for chunked in (True, False):
        client, exchange = make(chunked, {"X-Of-All": "yes", "Content-Type": "text/html"})
        exchange.begin(HEADERS) if chunked else exchange.answer(200, HEADERS, b"")
        exchange.end()
        head = rest(client).partition(b"\r\n\r\n")[0]
        assert b"X-Of-All: yes" in head and b"Content-Type: text/plain" in head and b"html" not in head


def test_a_stream_in_chunks(make: Make) -> None:
    client, exchange = make()
    exchange.begin(HEADERS)
    for piece in (b"one", b"", b"0123456789abcdef"):
        exchange.write(piece)
    exchange.end()
    head, _, body = rest(client).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head and b"Content-Length" not in head
    assert body == b"3\r\none\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"


def test_a_stream_for_an_old_client(make: Make) -> None:
    client, exchange = make(chunked=False)
    exchange.begin(HEADERS)
    exchange.write(b"one")
    exchange.end()
    head, _, body = rest(client).partition(b"\r\n\r\n")
    assert b"chunked" not in head and body == b"one"


def test_a_client_that_leaves_is_told_of_once(make: Make) -> None:
    client, exchange = make()
    gone = threading.Semaphore(0)
    exchange.begin(HEADERS)
    exchange.attend(lambda: gone.release())
    client.close()
    assert gone.acquire(timeout=10)
    exchange.write(b"to nobody")
    exchange.end()
    assert not gone.acquire(timeout=0.05)


def test_one_that_left_before_anybody_attended_is_told_of_too(make: Make, poller: Poller) -> None:
    client, exchange = make()
    client.close()
    until(lambda: not len(poller), 10, "the news")
    gone = threading.Event()
    exchange.attend(gone.set)
    assert gone.is_set()


def test_leaving_after_the_end_is_no_news(make: Make, poller: Poller) -> None:
    client, exchange = make()
    gone = threading.Event()
    exchange.attend(gone.set)
    exchange.answer(200, HEADERS, b"ok")
    client.close()
    until(lambda: not len(poller), 10, "the close")
    assert not gone.is_set()


def test_a_slow_client_gets_everything_as_it_reads(make: Make) -> None:
    client, exchange = make(chunked=False)
    sent = b"".join(b"%07d\n" % n for n in range(100_000))
    exchange.begin(HEADERS)
    for start in range(0, len(sent), 65536):
        exchange.write(sent[start : start + 65536])
    exchange.end()
    assert rest(client).partition(b"\r\n\r\n")[2] == sent


def test_a_client_that_owes_too_much_is_dropped(make: Make) -> None:
    client, exchange = make()
    gone = threading.Event()
    exchange.begin(HEADERS)
    exchange.attend(gone.set)
    piece = b"x" * 65536
    writes = 0
    while not gone.is_set():
        exchange.write(piece)
        writes += 1
        assert writes < 1000, "what nobody reads must not pile up"
    assert len(exchange._unsent) == 0
    client.close()


def test_a_piece_larger_than_the_cap_is_no_reason_to_drop_who_reads_it(make: Make) -> None:
    """A whole log of a job that goes on: what follows comes before the client can have read it."""
    client, exchange = make()
    gone = threading.Event()
    exchange.begin(HEADERS)
    exchange.attend(gone.set)
    exchange.write(b"l" * (MAX_UNSENT * 16))
    assert len(exchange._unsent) > MAX_UNSENT, "the kernel took it all"
    for _ in range(10):
        exchange.write(b"token")
    exchange.end()
    assert rest(client).count(b"token") == 10 and not gone.is_set()


def test_an_answer_larger_than_the_cap_is_still_sent(make: Make) -> None:
    client, exchange = make()
    body = b"y" * (MAX_UNSENT * 4)
    exchange.answer(200, HEADERS, body)
    assert rest(client).endswith(body[:100]) and not len(exchange._unsent)


def test_without_a_socket_the_same_exchange_blocks() -> None:
    def start(exchange: Exchange) -> None:
        exchange.attend(lambda: None)
        exchange.begin(HEADERS)
        exchange.write(b"one ")
        exchange.write(b"two")
        exchange.end()

    response = respond(None, {}, start)
    assert response.status_code == 200 and b"".join(response.iter_encoded()) == b"one two"
    whole = respond(None, {}, lambda exchange: exchange.answer(202, HEADERS, b"later"))
    assert (whole.status_code, whole.get_data()) == (202, b"later")


def test_a_blocked_reader_that_leaves_or_owes_too_much() -> None:
    exchange, gone = Blocking(), threading.Event()
    exchange.attend(gone.set)
    exchange.begin(HEADERS)
    exchange.write(b"one")
    body = exchange.wait().iter_encoded()
    assert next(iter(body)) == b"one"
    exchange.write(b"x" * MAX_UNSENT)  # the largest is not counted
    exchange.write(b"y" * MAX_UNSENT)
    exchange.write(b"z")
    assert len(list(body)) == 2 and gone.is_set()
