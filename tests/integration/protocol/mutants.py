"""Faults to put into the code: each takes one rule of the protocol away."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any

import pytest

from gateway import durability
from tests.support.mutants import broken
from wire import commands, open, queue
from worker import generation
from worker.candidate import Candidate
from worker.reconciler import Reconciler

Mutant = Callable[[pytest.MonkeyPatch], None]


def queue_script(module: Any, script: str, old: str, new: str) -> Mutant:
    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, script, broken(getattr(module, script), old, new))

    return apply


def ledger_scripts(old: str, new: str) -> Mutant:
    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        mutants = {}
        for name, script in commands._SCRIPTS.items():
            text = script.text.replace(old, new)
            mutants[name] = commands.Script(text, sha1(text.encode()).hexdigest())
        assert mutants != commands._SCRIPTS
        load = tuple(("SCRIPT", "LOAD", script.text) for script in mutants.values())
        monkeypatch.setattr(commands, "_SCRIPTS", mutants)
        monkeypatch.setattr(commands, "LOAD", load)
        monkeypatch.setattr("worker.pipeline.LOAD", load)

    return apply


def attribute(owner: Any, name: str, value: Any) -> Mutant:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value, raising=False)


MUTANTS: dict[str, Mutant] = {
    # The queue and its owners
    "a reaper does not look at the lease": queue_script(queue, "_REAP", "'-inf', now)", "'-inf', '+inf')"),
    "a dead boot is forgotten before it is empty": queue_script(
        queue, "_REAP", "redis.call('EXISTS', unacked(boot)) == 0", "true"
    ),
    "a pop that does not write down what it takes": queue_script(
        queue, "POP", "redis.call('HSET', unacked(boot)", "redis.call('HSET', 'nowhere'"
    ),
    # The ledger
    "a claim without a start marker": ledger_scripts("\nmark(attempt, n)\nredis.call", "\nredis.call"),
    "a claim of what has ended": ledger_scripts(
        "if TERMINAL[get('state')] then return { 'terminal'", "if false then return { 'terminal'"
    ),
    "a stop of what has ended": ledger_scripts("if TERMINAL[get('state')] or not due", "if not due"),
    "an end without an expiry": ledger_scripts("redis.call('PEXPIRE', KEYS[2], keep)", ""),
    # Choices
    "a choice that begins anew when it is resumed": attribute(Candidate, "replay", lambda self, token: None),
    "the first are the best": attribute(generation, "likeliest", lambda candidates, count: candidates[:count]),
    # The reconciler
    "no reconciler": attribute(Reconciler, "turn", lambda self: 0),
    "a reconciler that does not look at queues": queue_script(
        open, "_UNHELD", "redis.call('HEXISTS', base(queue) .. ':msgs', id) == 1", "false"
    ),
    "a reconciler that does not look at unacked messages": queue_script(
        open, "_UNHELD", "if not doubtful then return unheld end", "if true then return unheld end"
    ),
    # Readers and gateways
    "a wait for the replica that is repeated": attribute(
        durability, "_call", lambda client, *command: client.execute_command(*command)
    ),
}  # fmt: skip

OBVIOUS = {
    "a claim without a start marker",
    "an end without an expiry",
    "a stop of what has ended",
}
"""Faults that no ten stories are without."""
