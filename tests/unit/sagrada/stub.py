"""A gateway that says what a test has written down for it, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """What the gateway was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What it answers; `drop`: it closes the connection without a word."""

    status: int = 200
    body: Any = None
    text: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


@dataclass
class Stub:
    """Where the gateway is, and what it was asked so far."""

    url: str
    requests: list[Request]


@contextmanager
def gateway(answers: Callable[[Request], Answer], port: int = 0) -> Iterator[Stub]:
    """A gateway whose every answer is `answers(request)`; port 0: a free one."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            requests.append(request)
            answer = answers(request)
            if answer.drop:
                self.close_connection = True
                return
            data = (answer.text if answer.text is not None else json.dumps(answer.body)).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if answer.status != 204:
                self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test's output is its failures."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Stub(f"http://127.0.0.1:{server.server_port}", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def job(status: str = "queued", **fields: Any) -> dict[str, Any]:
    """A job object as the gateway writes it."""
    empty = ("queue_position", "estimated_wait", "created_at", "started_at", "completed_at")
    return {
        "id": "j1",
        "object": "job",
        "status": status,
        "model": "demo",
        **dict.fromkeys((*empty, "result", "usage", "error")),
        "urls": {"get": "/jobs/j1", "stream": "/jobs/j1/stream", "cancel": "/jobs/j1/cancel"},
        **fields,
    }


def token(seq: int) -> dict[str, Any]:
    """A token event."""
    return {
        "type": "token",
        "seq": seq,
        "index": seq,
        "id": 7,
        "text": f"t{seq} ",
        "logprob": -0.5,
        "special": False,
    }


def done(seq: int) -> dict[str, Any]:
    """The end of a job of `seq` tokens."""
    usage = {"prompt_tokens": 2, "completion_tokens": seq, "total_tokens": seq + 2}
    return {"type": "done", "seq": seq, "finish_reason": "length", "seed": 1, "usage": usage}


def sse(*events: dict[str, Any]) -> str:
    """The events as the gateway streams them."""
    frames = ["retry: 1000\n", ": keep-alive\n"]
    for event in events:
        line = "" if event["type"] == "resumed" else f"id: {event['seq']}\n"
        frames.append(f"{line}data: {json.dumps(event)}\n")
    return "\n".join(frames) + "\n"
