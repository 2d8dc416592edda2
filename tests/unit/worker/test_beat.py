from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from worker.beat import Beat


@pytest.fixture
def beat() -> Iterator[Beat]:
    created = Beat.create()
    yield created
    created.close()


def test_a_new_beat_expects_nothing(beat: Beat) -> None:
    assert beat.overdue() == 0.0


def test_the_other_process_sees_the_mark(beat: Beat) -> None:
    child = Beat(os.dup(beat.fd))
    child.mark(-5)
    assert beat.overdue() >= 5
    child.mark(3600)
    assert beat.overdue() == 0.0
    child.mark(-5)
    child.rest()
    assert beat.overdue() == 0.0
    child.close()
