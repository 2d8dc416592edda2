"""The engine's loop in this process: what a step that raises costs while others are on their way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from models.step import Allowed, LoadSpec, Sampling, Step
from tests.support.processes import until
from tests.support.scheduling import limits, scripted_runner
from wire.grammar import Regex
from wire.job import SamplingParams
from wire.request import NO_WATERMARK
from worker.beat import Beat
from worker.link import Admit, Allow, FromEngine, Link, SequenceFailed, Stepped, Stop
from worker.loop import Engine
from worker.options import Options
from worker.script import say, write_tokenizer
from worker.scripted import Running, ScriptedRunner

NEW = 8
NOWHERE = Path("/nowhere")


class Clumsy(ScriptedRunner):
    """A runner of which some launches raise."""

    def __init__(self, depth: int, raising: set[int], tokenizer: Path = NOWHERE) -> None:
        like = scripted_runner(limits(num_blocks=100))
        super().__init__(replace(like.info, folder=tokenizer), like.plan, like.settings)
        self.depth, self.raising, self.launches = depth, raising, 0

    def launch(self, step: Step, allowed: Allowed | None = None) -> Running:
        self.launches += 1
        if self.launches in self.raising:
            raise RuntimeError("the launch failed")
        return super().launch(step, allowed)


@contextmanager
def talk(runner: ScriptedRunner) -> Iterator[tuple[Engine, Link[FromEngine]]]:
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Beat.create()) as beat:
        options = Options(link_fd=0, beat_fd=0, parent=0, patience=30.0, spec=LoadSpec(model_id="scripted"))
        yield Engine(Link.of_engine(theirs), beat, runner, options), Link.of_parent(ours)


def outcome(
    engine: Engine, parent: Link[FromEngine], seqs: Iterable[int]
) -> tuple[dict[int, list[int]], set[int]]:
    """Run all to their end: each one's tokens, and who has failed."""
    for _ in range(1000):
        if not engine.scheduler.busy:
            break
        engine.turn()
    frames = parent.receive()
    given: dict[int, list[int]] = {seq: [] for seq in seqs}
    for frame in frames:
        for output in frame.outputs if isinstance(frame, Stepped) else ():
            given[output.seq].append(output.id)
    return given, {frame.seq for frame in frames if isinstance(frame, SequenceFailed)}


def compiled(engine: Engine) -> bool:
    """Whether all that waited for their grammars are taken in."""
    engine.constrain()
    return not engine._constraints.waiting


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("raising", range(1, 16))
@pytest.mark.parametrize("poison", [b"a!raise@2", b"no poison"])
def test_a_launch_that_raises_costs_one_sequence_at_most(depth: int, raising: int, poison: bytes) -> None:
    """Also when a step before it, which nobody has read yet, raises too: that one's sequence is another's blame."""
    prompts = {0: b"first", 1: poison, 2: b"third one"}
    with talk(Clumsy(depth, {raising})) as (engine, parent):
        for seq, prompt in prompts.items():
            params = SamplingParams(max_new_tokens=NEW, seed=1)
            engine.admit(Admit(seq=seq, prompt=list(prompt), output=[], params=params))
        given, failed = outcome(engine, parent, prompts)
    blamed = failed - ({1} if b"raise" in poison else set())
    assert len(blamed) <= 1, "who was alone in the step whose launch raised"
    for seq, prompt in prompts.items():
        assert given[seq] == say(prompt, Sampling(), len(given[seq]))
        assert seq in failed or len(given[seq]) == NEW


@pytest.mark.parametrize("enabled", [False, True])
def test_a_watermark_is_refused_where_there_is_none(enabled: bool) -> None:
    runner = scripted_runner(limits(num_blocks=100))
    runner.info = replace(runner.info, watermark=enabled)
    params = SamplingParams(max_new_tokens=NEW, seed=1, watermark=True)
    with talk(runner) as (engine, parent):
        engine.admit(Admit(seq=7, prompt=list(b"ab"), output=[], params=params))
        refused = [frame for frame in parent.receive() if isinstance(frame, SequenceFailed)]
        assert engine.scheduler.busy == enabled
    assert [(each.seq, each.error_type, each.error) for each in refused] == (
        [] if enabled else [(7, "validation", NO_WATERMARK)]
    )


def test_an_engine_whose_sequences_all_wait_to_be_allowed_more_waits_too() -> None:
    with talk(scripted_runner(limits(num_blocks=100))) as (engine, parent):
        running = threading.Thread(target=engine.run)
        running.start()
        params = SamplingParams(max_new_tokens=NEW, seed=1)
        for seq, allowed in ((0, 3), (1, NEW)):
            parent.send(Admit(seq=seq, prompt=list(b"ab"), output=[], params=params, allowed=allowed))
        given: dict[int, list[int]] = {0: [], 1: []}

        def hear(held: int) -> bool:
            for frame in parent.receive():
                for output in frame.outputs if isinstance(frame, Stepped) else ():
                    given[output.seq].append(output.id)
            return [len(ids) for ids in given.values()] == [held, NEW]

        until(lambda: hear(3))
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.2 and hear(3), "it does not spin"
        parent.send(Allow(seq=0, allowed=5))
        until(lambda: hear(5))
        parent.send(Allow(seq=0, allowed=NEW))
        until(lambda: hear(NEW))
        parent.send(Stop())
        running.join(10)
    assert given == {seq: say(b"ab", Sampling(), NEW) for seq in (0, 1)}


def test_a_constrained_sequence_follows_its_grammar_whatever_happens_beside_it(tmp_path: Path) -> None:
    """Steps before it raise while it is being launched, at any depth; who is not to blame is not touched."""
    write_tokenizer(tmp_path)
    prompts = {0: b"first", 1: b"a!raise@2", 2: b"constrained", 3: b"too"}
    for depth, raising in product((1, 2, 3), range(1, 14)):
        with talk(Clumsy(depth, {raising}, tmp_path)) as (engine, parent):
            for seq, prompt in prompts.items():
                grammar = Regex("[a-m ]*") if seq > 1 else None
                params = SamplingParams(max_new_tokens=NEW, seed=1, grammar=grammar)
                engine.admit(Admit(seq=seq, prompt=list(prompt), output=[], params=params))
            until(lambda: compiled(engine))
            given, failed = outcome(engine, parent, prompts)
        assert len(failed - {1}) <= 1
        for seq, prompt in prompts.items():
            plain = say(prompt, Sampling(), len(given[seq]))
            allowed = {ord(" "), *b"abcdefghijklm"} if seq > 1 else {*range(256)}
            assert given[seq] == [token if token in allowed else ord(" ") for token in plain]
            assert seq in failed or len(given[seq]) == NEW


def test_an_end_that_waits_for_its_grammar_is_forgotten(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    with talk(Clumsy(1, set(), tmp_path)) as (engine, parent):
        params = SamplingParams(max_new_tokens=NEW, seed=1, grammar=Regex("a*"))
        for seq, output in ((0, []), (1, [ord("x")]), (2, [ord("a")])):
            engine.admit(Admit(seq=seq, prompt=list(b"p"), output=output, params=params))
        engine.abort(0)
        until(lambda: compiled(engine))
        while engine.scheduler.busy:
            engine.turn()
        frames = parent.receive()
    (failed,) = (frame for frame in frames if isinstance(frame, SequenceFailed))
    assert failed.seq == 1 and "the grammar could not be followed" in failed.error
    said = [output for frame in frames if isinstance(frame, Stepped) for output in frame.outputs]
    assert {output.seq for output in said} == {2} and [output.id for output in said] == [ord("a")] * (NEW - 1)
