"""One HTTP client for all tests here: making one costs more than most of the requests."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx

http = httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=500))


def submit(
    url: str, tokens: int = 5, headers: dict[str, str] | None = None, query: str = "", **body: Any
) -> httpx.Response:
    """POST /jobs."""
    parameters = {"max_new_tokens": tokens, **body.pop("parameters", {})}
    return http.post(
        f"{url}/jobs{query}",
        json={"inputs": "the cat", "parameters": parameters, **body},
        headers=headers,
    )


def job(url: str, job_id: str, query: str = "") -> dict[str, Any]:
    """GET /jobs/{id}."""
    answer = http.get(f"{url}/jobs/{job_id}{query}", timeout=70)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


class Post:
    """A request in flight: its answer may be read, or its client may leave."""

    def __init__(self, url: str, route: str, asked: dict[str, Any]) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.sock = socket.create_connection((host, int(port)), timeout=30)
        data = json.dumps(asked).encode()
        head = (
            f"POST {route} HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self.sock.sendall(head.encode() + data)

    def read(self) -> bytes:
        return b"".join(iter(lambda: self.sock.recv(65536), b""))

    def __enter__(self) -> Post:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
