"""Who waits for a job: an exchange with a client, fed by the hub."""

from __future__ import annotations

import msgspec

from gateway import errors
from gateway.exchange import Exchange
from gateway.service import Gateway
from gateway.subscriber import Subscriber
from wire.events import Event, Resumed

SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
JSON = {"Content-Type": "application/json"}
KEEP_ALIVE = b":\n\n"
"""A comment, the same bytes as TGI's."""
RETRY = b"retry: 1000\n\n"
"""What a job's stream begins with: ms after which a client whose stream was cut comes back."""

_encode = msgspec.json.Encoder().encode


class Waiting(Subscriber):
    """A client that waits over an exchange."""

    def __init__(self, gateway: Gateway, exchange: Exchange, job_id: str, after: int = -1) -> None:
        super().__init__(job_id, after)
        self.gateway, self.exchange = gateway, exchange

    def start(self) -> None:
        """Begin to listen. Opened first: a client that has left already is told at once, and then closes it."""
        self.gateway.hub.open(self)
        self.exchange.attend(self.gone)

    def gone(self) -> None:
        """The client has left: its job is cancelled if the request was bound to the connection."""
        if self.bound:
            self.gateway.cancel_soon(self.job_id)
        self.gateway.hub.close(self)  # last: a drain ends when the hub is empty and the chores are done

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send the whole answer, and listen no more."""
        self.gateway.hub.close(self)
        self.exchange.answer(status, JSON | (headers or {}), body)

    def fail(self, error: Exception) -> None:
        """Answer with what the error is in HTTP."""
        response = errors.answer(error)
        self.answer(response.status_code, response.get_data(), dict(response.headers))


class Streaming(Waiting):
    """A client that reads server-sent events."""

    def __init__(self, gateway: Gateway, exchange: Exchange, job_id: str, after: int = -1) -> None:
        super().__init__(gateway, exchange, job_id, after)
        self._wrote = True

    def write(self, data: bytes) -> None:
        """Send some events."""
        self._wrote = True
        self.exchange.write(data)

    def end(self) -> None:
        """Nothing more will come."""
        self.gateway.hub.close(self)
        self.exchange.end()

    def beat(self) -> None:
        """A comment, if nothing was said since the last heartbeat: proxies close silent connections."""
        if not self._wrote:
            self.exchange.write(KEEP_ALIVE)
        self._wrote = False


def frame(event: Event) -> bytes:
    """An event of a job's stream. `resumed` has no id: it is no place to go on from."""
    if isinstance(event, Resumed):
        return b"data: %b\n\n" % _encode(event)
    return b"id: %d\ndata: %b\n\n" % (event.seq, _encode(event))


class JobStream(Streaming):
    """The job's events as they are; outlives nothing and cancels nothing: the client comes back with its last id."""

    def start(self) -> None:
        """Send the head, then listen."""
        self.exchange.begin(SSE)
        self.write(RETRY)
        super().start()

    def deliver(self, events: list[Event]) -> None:
        """Send them in one write."""
        self.write(b"".join([frame(event) for event in events]))
        if self.reader.ended:
            self.end()

    def vanished(self) -> None:
        """The job was deleted: the client will hear 404 when it comes back."""
        self.end()

    def abandon(self) -> None:
        """End the response; the client comes back."""
        self.end()
