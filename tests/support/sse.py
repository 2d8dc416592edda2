"""A job's stream as a careful client reads it: by event, with reconnects by Last-Event-ID."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

TERMINAL = {"done", "failed", "cancelled", "expired"}


def frames(response: httpx.Response) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """(id, data) of each SSE event that carries data."""
    event_id: str | None = None
    data: list[str] = []
    for line in response.iter_lines():
        if line.startswith("id:"):
            event_id = line[3:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield event_id, msgspec.json.decode("\n".join(data))
            event_id, data = None, []


def follow(url: str, job_id: str, timeout: float = 120.0) -> list[dict[str, Any]]:
    """Every event of the job but `resumed`, to the end, whatever connections break on the way.

    AssertionError on a gap, a duplicate, or when `timeout` seconds pass.
    """
    deadline, last = time.monotonic() + timeout, -1
    events: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        headers = {"Last-Event-ID": str(last)} if last >= 0 else {}
        try:
            with httpx.stream(
                "GET", f"{url}/jobs/{job_id}/stream", headers=headers, timeout=httpx.Timeout(30, connect=5)
            ) as response:
                if response.status_code == 503:
                    time.sleep(0.2)
                    continue
                assert response.status_code == 200, f"{response.status_code}: {response.read()!r}"
                for event_id, event in frames(response):
                    if event["type"] == "resumed":
                        continue
                    assert event_id is not None and int(event_id) == event["seq"] == last + 1, (
                        f"after seq {last} came id {event_id}, {event}"
                    )
                    last += 1
                    events.append(event)
                    if event["type"] in TERMINAL:
                        return events
        except httpx.TransportError:  # a killed gateway: reconnect, as EventSource does
            time.sleep(0.1)
    raise AssertionError(f"job {job_id}: no end within {timeout:g} s, {len(events)} events so far")


def text_of(events: list[dict[str, Any]], choice: int = 0) -> str:
    """The concatenated text of that choice's token events."""
    return "".join(e["text"] for e in events if e["type"] == "token" and e["choice"] == choice)
