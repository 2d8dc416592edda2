"""The phases of a job, each held for as long as a test wants: a fleet whose engine is as slow as a file says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from models.step import Sampling
from tests.support.fleet import Fleet
from tests.support.processes import until
from wire import keys
from worker.script import say

SLOTS, BLOCK, BLOCKS = 3, 16, 64
SETTINGS = {
    "SERVED_MODEL_NAME": "scripted",
    "SLOTS": str(SLOTS),
    "LOOKAHEAD": "1",
    "BLOCK_SIZE": str(BLOCK),
    "KV_BLOCKS": str(1 + BLOCKS),
    "MAX_TOTAL_TOKENS": str(BLOCK * BLOCKS),
    "PREFILL_CHUNK": "64",
}
HELD = 0.15
"""Seconds of a step while a phase is held: long beside the way of a cancellation, so that steps can be counted."""


def prompt(name: str, length: int) -> str:
    """A prompt of so many tokens that begins with `name`, by which the engine's steps know it."""
    return f"{name} ".ljust(length, "x")


def text(inputs: str, tokens: int) -> str:
    """What the scripted model answers."""
    return bytes(say(inputs.encode(), Sampling(), tokens)).decode(errors="replace")


@dataclass
class Hall:
    """A fleet of one worker and one gateway, and the folder that its engine obeys."""

    fleet: Fleet
    folder: Path
    numbers: count[int] = field(default_factory=count)

    def pace(self, seconds: float) -> None:
        """What every step takes from the next one on."""
        new = self.folder / "pace.new"
        new.write_text(str(seconds))
        new.replace(self.folder / "pace")

    def steps(self) -> list[str]:
        """A line for each step that was launched."""
        return (self.folder / "steps").read_text().splitlines()

    def steps_of(self, name: str, phase: str = "", since: int = 0) -> list[str]:
        """Of them those with this job."""
        return [s for s in self.steps()[since:] if s.startswith(phase) and f" {name}:" in s]

    def submit(self, name: str, length: int, tokens: int) -> str:
        """A job's id."""
        body = body_of(name, length, tokens)
        answer = httpx.post(f"{self.fleet.url}/jobs", json=body, timeout=30)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def state(self, job_id: str) -> str:
        """The job's, as a poll shows it."""
        return str(httpx.get(f"{self.fleet.url}/jobs/{job_id}", timeout=30).json()["status"])

    def open(self) -> set[str]:
        """Jobs that have not ended."""
        redis: Any = self.fleet.redis
        return {id.decode() for id in redis.zrange(keys.OPEN, 0, -1)}

    def held(self) -> str:
        """All messages that the worker has taken and not acknowledged."""
        redis: Any = self.fleet.redis
        unacked = [redis.hvals(key) for key in redis.scan_iter(keys.UNACKED_PREFIX + "*")]
        return str(unacked)

    def left(self) -> dict[str, int]:
        """What is queued, taken or open."""
        redis: Any = self.fleet.redis
        waiting, messages, _ = keys.queue_keys(keys.queue_of("scripted"))
        unacked = [redis.hlen(key) for key in redis.scan_iter(keys.UNACKED_PREFIX + "*")]
        found = {
            "open": redis.zcard(keys.OPEN), "queued": redis.zcard(waiting), "messages": redis.hlen(messages),
            "unacked": sum(unacked),
        }  # fmt: skip
        return {what: number for what, number in found.items() if number}


def body_of(name: str, length: int, tokens: int) -> dict[str, Any]:
    """TGI's request."""
    return {
        "inputs": prompt(name, length),
        "parameters": {"max_new_tokens": tokens, "ignore_eos": True, "seed": 1},
    }


def _queued(hall: Hall, name: str, job_id: str) -> bool:
    return bool(hall.fleet.redis.zscore(keys.queue_keys(keys.queue_of("scripted"))[0], job_id))


def _waits(hall: Hall, name: str, job_id: str) -> bool:
    return hall.state(job_id) == "in_progress" and not hall.steps_of(name)


def _prefills(hall: Hall, name: str, job_id: str) -> bool:
    return len(hall.steps_of(name, "prefill")) >= 2 and not hall.steps_of(name, "decode")


def _decodes(hall: Hall, name: str, job_id: str) -> bool:
    return len(hall.steps_of(name, "decode")) >= 2


def _gave_way(hall: Hall, name: str, job_id: str) -> bool:
    """It has decoded, and is no longer among those that do."""
    return _decodes(hall, name, job_id) and not any(f" {name}:" in step for step in hall.steps()[-3:])


@dataclass(frozen=True)
class Phase:
    """Where a job is when it is stopped. Lengths are (tokens of the prompt, tokens to generate)."""

    bystanders: tuple[tuple[int, int], ...]
    """Who is there before it, all of them in steps, and stays undisturbed."""
    victim: tuple[int, int]
    reached: Callable[[Hall, str, str], bool]
    most_steps: int = 0
    """Steps with it that may be launched once it was stopped."""
    until_reached: float = HELD
    """Seconds of a step from when it was asked for until then."""


PHASES = {
    "queued": Phase(((20, 40),) * (SLOTS + 1), (20, 20), _queued),
    "waiting for a slot": Phase(((20, 40),) * SLOTS, (20, 20), _waits),
    "waiting for blocks": Phase(((600, 40),), (500, 20), _waits),
    "prefill": Phase(((20, 40),), (900, 20), _prefills, most_steps=1),
    "decode": Phase(((20, 400),), (20, 400), _decodes, most_steps=3, until_reached=0.01),
    # Both grow by a block in 16 steps; when none is left the younger one gives up all of its own.
    "preempted": Phase(((600, 400),), (350, 400), _gave_way, until_reached=0.015),
}


def hold(hall: Hall, phase: Phase, ask: Callable[[str], str]) -> tuple[dict[str, str], str, str]:
    """Bring the phase about: (id → text of the bystanders, the victim's name, its id).

    `ask` submits the victim of that name; its id.
    """
    number = next(hall.numbers)
    hall.pace(HELD)
    bystanders = {}
    for index, (length, tokens) in enumerate(phase.bystanders):
        name = f"bystander-{number}-{index}"
        bystanders[hall.submit(name, length, tokens)] = text(prompt(name, length), tokens)
    until(lambda: all(hall.state(id) == "in_progress" for id in bystanders), what="the bystanders")
    victim = f"victim-{number}"
    job_id = ask(victim)
    hall.pace(phase.until_reached)
    until(lambda: phase.reached(hall, victim, job_id), what="the phase")
    hall.pace(HELD)
    return bystanders, victim, job_id
