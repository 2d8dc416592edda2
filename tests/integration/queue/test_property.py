"""No interleaving loses, strands or doubles a message; and the check that says so can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.queue import walk
from tests.support.mutants import broken, without_resync
from wire import queue


def test_random_walks_lose_nothing(redis_url: str) -> None:
    assert walk.walks(redis_url, range(25)) == {}


def _break(script: str, old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        mutant = broken(getattr(queue, script), old, new)
        monkeypatch.setattr(queue, script, mutant)
        monkeypatch.setattr(walk, script, mutant, raising=False)

    return apply


CONTROLS = {
    "a lost reply is not looked for": without_resync,
    "a pop without a lease": _break("POP", "then return false end", "then boot = boot end"),
    "a dead boot is forgotten at once": _break("_REAP", "redis.call('EXISTS', unacked(boot)) == 0", "true"),
    "reclaimed without a lease": _break("_RECLAIM", "then return false end", "then new = new end"),
    "a boot leaves without a word": _break(
        "_REGISTER", "redis.call('EXISTS', unacked(ARGV[i])) == 1", "false"
    ),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_the_walks_notice(redis_url: str, monkeypatch: pytest.MonkeyPatch, control: str) -> None:
    CONTROLS[control](monkeypatch)
    for start in range(0, 150, 5):
        if walk.walks(redis_url, range(start, start + 5)):
            return
    pytest.fail(f"150 walks did not notice: {control}")
