"""One HTTP client for all tests here: making one costs more than most of the requests."""

from __future__ import annotations

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
