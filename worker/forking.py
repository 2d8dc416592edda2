"""Choices of one job: sequences of one prompt, of which one prefills for all that have nothing yet."""

from __future__ import annotations

from collections.abc import Iterable

from worker.sequence import Sequence


def followers(leader: Sequence, waiting: Iterable[Sequence]) -> list[Sequence]:
    """Those that may begin with what it prefills."""
    if not (leader.group and leader.fresh):
        return []
    alike = (s for s in waiting if s is not leader and s.group == leader.group)
    return [s for s in alike if s.fresh and not s.held]


def led(waiting: Iterable[Sequence], running: Iterable[Sequence]) -> set[Sequence]:
    """Those that wait for another to prefill for them."""
    leaders = {s.group for s in running if s.group and s.fresh and not (s.decoding or s.ended)}
    return {s for s in waiting if s.group in leaders and s.fresh} if leaders else set()
