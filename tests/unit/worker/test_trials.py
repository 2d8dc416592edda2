"""Grammars are tried in a process of their own, which says what they take and outlives those that take too much."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import grammar
from models.trial import MOST_MEMORY, MOST_SECONDS, TOO_MUCH
from tests.support.processes import until
from wire.grammar import BLANKS
from worker.script import EOS, VOCAB_SIZE, write_tokenizer
from worker.trials import Trials

FINE = grammar.of_regex("[a-z]+")
BROKEN = grammar.of_regex("(")
ENDLESS = grammar.of_schema('{"type":"integer","multipleOf":99999989}', BLANKS)


@pytest.fixture
def trials(tmp_path: Path) -> Iterator[Trials]:
    write_tokenizer(tmp_path)
    made = Trials(tmp_path / "tokenizer.json", VOCAB_SIZE, (EOS,))
    yield made
    made.close()


def test_what_can_be_compiled_and_what_cannot(trials: Trials) -> None:
    assert trials.of(FINE).why == ""
    assert "unclosed group" in trials.of(BROKEN).why
    assert trials.of(FINE).why == ""


def test_what_takes_too_much_is_given_up_in_time(trials: Trials) -> None:
    trials.of(FINE)
    began = time.monotonic()
    assert trials.of(ENDLESS).why == TOO_MUCH
    assert time.monotonic() - began < 5 * MOST_SECONDS  # of a processor, which others want too
    assert trials.of(FINE).why == ""


def test_it_tells_what_memory_one_takes(trials: Trials) -> None:
    small, large = (
        trials.of(source).memory
        for source in (FINE, grammar.of_schema('{"type":"integer","multipleOf":99991}', BLANKS))
    )
    assert 0 <= small < 10 << 20 < large < MOST_MEMORY


def test_a_dead_process_is_replaced(trials: Trials) -> None:
    os.kill(trials._process.pid, signal.SIGKILL)
    until(lambda: trials._process.poll() is not None)
    assert trials.of(FINE).why == ""
