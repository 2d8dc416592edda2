"""Who leaves the hub has nothing left to ask for: a drain ends when the hub is empty and the chores are done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.exchange import Blocking
from gateway.jobs import JobWait
from gateway.tgi.answers import Stream, Whole
from wire.events import Done
from wire.job import Usage

DONE = Done(seq=0, finish_reason="length", seed=1, usage=Usage.of(1, 0))


@pytest.fixture
def said() -> list[str]:
    """What the gateway was asked for, in order."""
    return []


@pytest.fixture
def gateway(said: list[str]) -> Any:
    return SimpleNamespace(
        hub=SimpleNamespace(close=lambda subscriber: said.append("close")),
        chore=lambda work: said.append("chore"),
        cancel_soon=lambda job_id: said.append("cancel"),
    )


@pytest.fixture
def generation() -> Any:
    return SimpleNamespace(accepted=SimpleNamespace(job=SimpleNamespace(id="7")), tokens=[])


def test_a_whole_answer_is_on_its_way_before_its_client_leaves_the_hub(
    gateway: Any, generation: Any, said: list[str]
) -> None:
    Whole(gateway, Blocking(), generation).deliver([DONE])
    assert said == ["chore", "close"]


@pytest.mark.parametrize("kind", [Whole, Stream])
def test_a_job_is_cancelled_before_its_client_leaves_the_hub(
    gateway: Any, generation: Any, said: list[str], kind: Any
) -> None:
    kind(gateway, Blocking(), generation).gone()
    assert said == ["cancel", "close"]


def test_a_poll_looks_at_the_record_before_it_leaves_the_hub(gateway: Any, said: list[str]) -> None:
    JobWait(gateway, Blocking(), "7", "", patience=1, early_status=200).abandon()
    assert said == ["chore", "close"]
