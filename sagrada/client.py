"""The Python client: submit, poll, stream, cancel. Needs httpx and msgspec alone.

client = Client("http://127.0.0.1:8080")
job = client.submit("Once upon a time", {"max_new_tokens": 64})
for event in client.stream(job.id):
    print(event.text, end="")
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

DEFAULT_URL = "http://127.0.0.1:8080"
TERMINAL_EVENTS = frozenset({"done", "failed", "cancelled", "expired"})
TERMINAL_STATES = frozenset({"completed", "failed", "cancelled", "expired"})
LONGEST_WAIT = 60.0
"""Seconds that one poll may wait on the server."""
_SILENCE = 45.0
"""Seconds: three of the server's keep-alives have been missed."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one job."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Choice(msgspec.Struct, frozen=True):
    """One of several texts; or, at the end of a stream, how it ended."""

    finish_reason: str
    seed: int
    tokens: int
    text: str = ""


class Result(msgspec.Struct, frozen=True):
    """What a completed job produced."""

    text: str
    """Of the first choice, as the next two."""
    finish_reason: str
    seed: int | None = None
    choices: tuple[Choice, ...] = ()
    """All of them, where more than one was asked for."""


class Problem(msgspec.Struct, frozen=True):
    """Why a job failed."""

    message: str
    type: str = ""


class Job(msgspec.Struct, frozen=True):
    """A job as the gateway tells of it; times are Unix seconds."""

    id: str
    status: str
    """queued, in_progress, completed, failed, cancelled or expired."""
    model: str = ""
    queue_position: int | None = None
    """1 is next; None once it runs."""
    estimated_wait: float | None = None
    """Seconds until it is taken, as the queue goes now; None once it runs, or if that cannot be told."""
    created_at: float | None = None
    started_at: float | None = None
    completed_at: float | None = None
    result: Result | None = None
    usage: Usage | None = None
    error: Problem | None = None
    urls: dict[str, str] = {}

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL_STATES


class Event(msgspec.Struct, frozen=True):
    """One event of a job's stream; which fields are filled depends on `type` (docs/streams.md)."""

    type: str
    """token, resumed, done, failed, cancelled or expired."""
    seq: int
    index: int | None = None
    id: int | None = None
    text: str = ""
    logprob: float | None = None
    special: bool = False
    choice: int = 0
    attempt: int | None = None
    finish_reason: str | None = None
    seed: int | None = None
    usage: Usage | None = None
    choices: tuple[Choice, ...] = ()
    """Of the last event, how each choice ended, where there are several."""
    error: str | None = None
    error_type: str | None = None

    @property
    def last(self) -> bool:
        """Whether the stream ends with it."""
        return self.type in TERMINAL_EVENTS


class ClientError(Exception):
    """The gateway refused; the message is its sentence."""

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0: there was no answer."""
        self.retry_after = retry_after
        """Seconds after which the gateway asks to try again; None: it did not say."""


class Unreachable(ClientError):
    """No gateway answers at this URL."""


class Client:
    """One gateway. Not for several threads at once; `close` it, or use it in a `with` statement."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        patience: float = 60.0,
    ) -> None:
        """`timeout` bounds one answer, `patience` how long a stream looks for a gateway that went away, in seconds."""
        self.url, self._patience = url.rstrip("/"), patience
        # Reading may take as long as the server was asked to wait, and then some.
        limits = httpx.Timeout(timeout, read=LONGEST_WAIT + timeout)
        # Without TLS there is nothing to verify, and reading the certificates takes longer than a short request.
        https = self.url.startswith("https:")
        key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=self.url, timeout=limits, verify=https, headers=key)

    def submit(
        self,
        inputs: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
        priority: int | None = None,
        ttl: float | None = None,
        start_ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a generation; TGI's parameters. A lost answer is asked for again under the same key: it runs once."""
        body: dict[str, Any] = {"inputs": inputs, "parameters": dict(parameters or {})}
        options = {"model": model, "priority": priority, "ttl": ttl, "start_ttl": start_ttl}
        body |= {name: value for name, value in options.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._job("POST", "/jobs", tries=3, json=body, headers=headers)

    def status(self, job_id: str, wait: float = 0.0) -> Job:
        """The job now, or as soon as it has ended within `wait` seconds (60 at most)."""
        return self._job("GET", f"/jobs/{job_id}", tries=3, params={"wait": f"{wait:g}"} if wait else {})

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job when it has ended; TimeoutError after `timeout` seconds (None: never)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LONGEST_WAIT if deadline is None else deadline - time.monotonic()
            job = self.status(job_id, wait=min(LONGEST_WAIT, max(0.0, left)))
            if job.ended:
                return job
            if left <= 0:
                raise TimeoutError(f"job {job_id} is {job.status} after {timeout:g} s")

    def generate(self, inputs: str, parameters: Mapping[str, Any] | None = None, **options: Any) -> Job:
        """Submit and wait for the end; the options are those of `submit`."""
        return self.wait(self.submit(inputs, parameters, **options).id)

    def cancel(self, job_id: str) -> Job:
        """Stop the job, whatever it is doing; harmless when it has ended."""
        return self._job("POST", f"/jobs/{job_id}/cancel", tries=3)

    def delete(self, job_id: str) -> None:
        """Forget a finished job at once; a live one is cancelled."""
        self._request("DELETE", f"/jobs/{job_id}")

    def info(self) -> dict[str, Any]:
        """What the gateway serves: TGI's /info, with the queue's name, device and dtype."""
        found: dict[str, Any] = msgspec.json.decode(self._request("GET", "/info").content)
        return found

    def ready(self) -> tuple[bool, str]:
        """Whether a model is served, and otherwise why not."""
        try:
            self._request("GET", "/readyz", timeout=5.0)
        except Unreachable:
            raise
        except ClientError as error:
            return False, str(error)
        return True, ""

    def stream(self, job_id: str, after: int = -1) -> Iterator[Event]:
        """Every event with seq > `after`, once and in order, to the last; reconnects where it was cut off."""
        last, pause = after, 0.1
        deadline = time.monotonic() + self._patience
        while True:
            try:
                with self._open(job_id, last) as answer:
                    for event in _events(answer):
                        pause, deadline = 0.1, time.monotonic() + self._patience
                        last = max(last, event.seq) if event.type != "resumed" else last
                        yield event
                        if event.last:
                            return
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return  # the last event was seen before
            except ClientError as error:
                if error.status not in (0, 503) or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(2.0, 2 * pause)

    @contextmanager
    def _open(self, job_id: str, last: int) -> Iterator[httpx.Response]:
        """One connection to the job's stream; Unreachable when it breaks."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last)} if last >= 0 else {})
        timeout = httpx.Timeout(10.0, read=_SILENCE)
        try:
            with self._http.stream(
                "GET", f"/jobs/{job_id}/stream", headers=headers, timeout=timeout
            ) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise _refusal(answer)
                yield answer
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _job(self, method: str, path: str, *, tries: int = 1, **options: Any) -> Job:
        return msgspec.json.decode(self._request(method, path, tries=tries, **options).content, type=Job)

    def _request(self, method: str, path: str, *, tries: int = 1, **options: Any) -> httpx.Response:
        """The answer below 400, asked for again when the connection broke; ClientError otherwise."""
        while True:
            tries -= 1
            try:
                answer = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if not tries:
                    raise self._unreachable(error) from error
                time.sleep(0.2)
                continue
            if answer.status_code >= 400:
                raise _refusal(answer)
            return answer

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(f"No gateway answers at {self.url} ({error}). Is `sagrada up` running?")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _events(answer: httpx.Response) -> Iterator[Event]:
    # The gateway writes an event's JSON as one `data` line; ids, comments and retry times need no look.
    for line in answer.iter_lines():
        if line.startswith("data:"):
            yield msgspec.json.decode(line[5:], type=Event)


def _refusal(answer: httpx.Response) -> ClientError:
    """The gateway's own sentence, or what stands for it when something in between has answered."""
    sentence = f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}."
    try:
        said = msgspec.json.decode(answer.content)
        sentence = str(said["error"])
    except (msgspec.DecodeError, TypeError, KeyError):
        pass
    after = answer.headers.get("Retry-After", "")
    return ClientError(sentence, answer.status_code, float(after) if after.isdecimal() else None)
