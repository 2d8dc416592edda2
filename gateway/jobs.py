"""The job API: submit, look, wait, stream, cancel, delete."""

from __future__ import annotations

import re
import threading

import msgspec
from flask import Blueprint, Response, request

from gateway.auth import caller
from gateway.body import json_body
from gateway.clock import Timer
from gateway.detach import hand_over, respond
from gateway.exchange import Exchange
from gateway.job_object import job_object
from gateway.service import Gateway
from gateway.stream import JSON, RETRY, SSE, JobStream, Waiting, frame
from wire.errors import JobNotFound, ValidationError
from wire.events import Event
from wire.queue import TaskQueue
from wire.reader import Reader
from wire.record import Record
from wire.request import parse

MAX_WAIT = 60.0
"""Longest `?wait=`, seconds."""

POLL_AFTER = 1
"""Retry-After of a job that has not ended, seconds."""

_PREFER = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+)")


def unknown(job_id: str) -> JobNotFound:
    """There is no such job."""
    return JobNotFound(f"there is no job {job_id}: the id is wrong, or its result has expired")


def known(gateway: Gateway, job_id: str, tenant: str) -> Record:
    """The job's record; JobNotFound, whether there is no such job or it is another tenant's."""
    record = gateway.ledger.record(job_id)
    if record is None or record.tenant != tenant:
        raise unknown(job_id)
    return record


def show(gateway: Gateway, job_id: str, record: Record, status: int = 200) -> Response:
    """The job object as a response."""
    waiting = record.state == "queued" and bool(record.queue)
    position, wait = _place(gateway, job_id, record.queue) if waiting else (None, None)
    body = msgspec.json.encode(job_object(job_id, record, position, wait))
    response = Response(body, status, JSON)
    if not record.terminal:
        response.headers["Retry-After"] = str(POLL_AFTER)
    if status == 202:
        response.headers["Location"] = f"/jobs/{job_id}"
    return response


def _place(gateway: Gateway, job_id: str, name: str) -> tuple[int | None, float | None]:
    """(Position, seconds until it is taken): none where workers have room for all up to it, or nothing was taken."""
    queue = TaskQueue(gateway.redis, name)
    position = queue.position(job_id)
    if position is None:
        return None, None
    free = sum(w.free for w in gateway.fleet.workers() if w.queue == name and w.state == "serving")
    if position <= free:
        return position, 0.0
    pace = queue.pace()
    return position, round((position - free) / pace, 1) if pace else None


class JobWait(Waiting):
    """A client that wants the job object when the job has ended, or when its patience has."""

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        job_id: str,
        tenant: str,
        patience: float,
        early_status: int,
    ) -> None:
        """`tenant`: the client's; `early_status`: the HTTP status if the job has not ended by then."""
        super().__init__(gateway, exchange, job_id)
        self._tenant, self._patience, self._early_status = tenant, patience, early_status
        self._once = threading.Lock()
        self._timer: Timer | None = None

    def start(self) -> None:
        """Listen, and look at the clock."""
        super().start()
        self._timer = self.gateway.clock.after(self._patience, self.abandon)

    def deliver(self, events: list[Event]) -> None:
        """Only the end matters."""
        if self.reader.ended:
            self.abandon()

    def vanished(self) -> None:
        """The look at the record will say so."""
        self.abandon()

    def abandon(self) -> None:
        """Answer with what the record says now."""
        if self._timer is not None:
            self._timer.cancel()
        if self._once.acquire(blocking=False):
            self.gateway.chore(self._look)
            self.gateway.hub.close(self)  # last: a drain ends when the hub is empty and the chores are done

    def _look(self) -> None:
        try:
            record = known(self.gateway, self.job_id, self._tenant)
            response = show(self.gateway, self.job_id, record, 200 if record.terminal else self._early_status)
        except Exception as error:  # whatever it is, the client hears of it
            self.fail(error)
        else:
            self.answer(response.status_code, response.get_data(), dict(response.headers))


def _patience() -> float:
    """Seconds that the client would wait: ?wait= or Prefer: wait=."""
    text = request.args.get("wait")
    if text is None:
        preferred = _PREFER.search(request.headers.get("Prefer", ""))
        return min(float(preferred[1]), MAX_WAIT) if preferred else 0.0
    try:
        wait = float(text)
    except ValueError:
        wait = -1.0
    if not 0 <= wait <= MAX_WAIT:
        raise ValidationError(f"`wait` must be a number of seconds from 0 to {MAX_WAIT:g}. Given: {text}")
    return wait


def _after() -> int:
    """The last seq that the client has; a reconnecting EventSource repeats its URL, so the header counts first."""
    name, text = "Last-Event-ID", request.headers.get("Last-Event-ID", "")
    if not text:
        name, text = "starting_after", request.args.get("starting_after", "")
    if not text:
        return -1
    try:
        return max(-1, int(text))
    except ValueError:
        raise ValidationError(f"`{name}` must be the number of an event. Given: {text}") from None


def _finished_stream(gateway: Gateway, job_id: str, after: int) -> Response:
    """The rest of a stream that grows no more; 204 tells an EventSource to stay away."""
    events = Reader(after).from_log(gateway.ledger.read(job_id, after))
    if not events:
        return Response(status=204)
    body = RETRY + b"".join(frame(event) for event in events)
    return Response(body, 200, SSE)


def blueprint(gateway: Gateway) -> Blueprint:
    """The routes under /jobs."""
    routes = Blueprint("jobs", __name__)

    @routes.after_request
    def let_go(response: Response) -> Response:
        """A long text, or all of a stream that has ended."""
        return hand_over(gateway.poller, request.environ, response)

    def mine(job_id: str) -> Record:
        return known(gateway, job_id, caller().tenant)

    def wait(job_id: str, record: Record, early_status: int) -> Response:
        patience, tenant = _patience(), caller().tenant
        if record.terminal or not patience or not gateway.has_room:
            return show(gateway, job_id, record, 200 if record.terminal else early_status)

        def start(exchange: Exchange) -> None:
            JobWait(gateway, exchange, job_id, tenant, patience, early_status).start()

        return respond(gateway.poller, request.environ, start)

    @routes.post("/jobs")
    def submit() -> Response:
        _patience()  # a bad one is refused before there is a job
        body = json_body(request, gateway.config.max_body_bytes)
        parsed = parse(body)
        job_id, digest = gateway.admission.keyed(request.headers.get("Idempotency-Key"), body)
        accepted = gateway.admission.accept(parsed, job_id=job_id, digest=digest, bounds=gateway.bounds)
        return wait(accepted.job.id, accepted.record, 202)

    @routes.get("/jobs/<job_id>")
    def look(job_id: str) -> Response:
        return wait(job_id, mine(job_id), 200)

    @routes.get("/jobs/<job_id>/stream")
    def stream(job_id: str) -> Response:
        after = _after()
        if mine(job_id).terminal:
            return _finished_stream(gateway, job_id, after)
        if gateway.leaving:
            return Response(RETRY, 200, SSE)  # an EventSource comes back after an end, but not after an error
        gateway.admit_stream()
        return respond(
            gateway.poller,
            request.environ,
            lambda exchange: JobStream(gateway, exchange, job_id, after).start(),
        )

    @routes.post("/jobs/<job_id>/cancel")
    def cancel(job_id: str) -> Response:
        mine(job_id)
        return show(gateway, job_id, gateway.cancel(job_id))

    @routes.delete("/jobs/<job_id>")
    def delete(job_id: str) -> Response:
        mine(job_id)
        match gateway.ledger.delete(job_id):
            case "deleted":
                return Response(status=204)
            case "missing":
                raise unknown(job_id)
        return show(gateway, job_id, gateway.cancel(job_id))

    return routes
