from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from models.histogram import Histogram
from models.step import LoadSpec, Sampling
from tests.support.engines import DEADLINE, Talk, engine
from tests.support.processes import alive, until
from worker.death import EXIT_ORPHANED
from worker.engine import EXIT_BROKEN, EXIT_LOAD_FAILED, EXIT_STOPPED
from worker.launcher import EngineProcess, describe_exit
from worker.link import LinkClosed
from worker.script import say
from worker.scripted import EXIT_SCRIPTED

GREEDY = Sampling()


def test_it_reports_what_it_loaded_and_how_far_it_is() -> None:
    with engine("scripted?max_total=64&warmup=0.3", slots=3, block_size=8) as talk:
        assert talk.ready is not None
        assert (talk.ready.slots, talk.ready.block_size, talk.ready.max_total_tokens) == (3, 8, 64)
        assert (Path(talk.ready.folder) / "tokenizer.json").exists()
        assert {frame.stage for frame in talk.progress} == {"load", "warm-up"}
        assert talk.progress[-1].done == talk.progress[-1].total == talk.ready.buckets


def test_sequences_of_all_lengths_run_side_by_side() -> None:
    with engine(slots=4) as talk:
        prompts = {seq: b"prompt %d " % seq * (1 + 13 * seq % 40) for seq in range(12)}
        for seq, prompt in prompts.items():
            talk.admit(seq, prompt, 5 + seq)
        talk.finish(*prompts)
        for seq, prompt in prompts.items():
            assert talk.tokens[seq] == say(prompt, GREEDY, 5 + seq)
        assert sorted(talk.left) == sorted(prompts)
        last = talk.steps[-1]
        assert (last.free_slots, last.compilations) == (4, 0)
        assert talk.ready is not None
        assert last.free_blocks == talk.ready.num_blocks - 1


def test_steps_launched_ahead_give_the_same_tokens() -> None:
    with engine("scripted?depth=2&step=0.001", slots=4) as talk:
        prompts = {seq: b"!eos@%d prompt " % (3 + seq) * (1 + seq) for seq in range(12)}
        for seq, prompt in prompts.items():
            talk.admit(seq, prompt, 9)
        talk.abort(5)
        talk.finish(*(seq for seq in prompts if seq != 5))
        for seq, prompt in prompts.items():
            if seq != 5:
                assert talk.tokens[seq] == say(prompt, GREEDY, min(9, 4 + seq))


def test_a_prompt_is_scored_for_who_asked() -> None:
    with engine() as talk:
        talk.admit(0, b"score me, please", 3, scored=True)
        talk.admit(1, b"but not me", 3)
        talk.finish(0, 1)
        assert {seq: len(scores) for seq, scores in talk.scores.items()} == {0: 15}


def test_the_shapes_it_ran_are_kept_for_its_next_plan(tmp_path: Path) -> None:
    path = tmp_path / "shapes.json"
    with engine(histogram=str(path)) as talk:
        talk.admit(0, b"count me", 3)
        talk.finish(0)
        assert talk.process.stop(DEADLINE) == EXIT_STOPPED
    counted = Histogram.load(path)
    assert (counted["prefill", 8, 1], counted["decode", 1, 1]) == (1, 2)


def test_a_resumed_sequence_says_only_what_is_new() -> None:
    with engine() as talk:
        whole = say(b"again", Sampling(do_sample=True, seed=1), 20)
        talk.admit(0, b"again", 20, output=whole[:12], do_sample=True)
        talk.finish(0)
        assert talk.tokens[0] == whole
        assert sum(len(step.outputs) for step in talk.steps) == 8


def test_the_likeliest_tokens_come_with_the_chosen_one_for_who_asked() -> None:
    with engine() as talk:
        talk.admit(0, b"three", 4, top_n=3)
        talk.admit(1, b"none", 4)
        talk.finish(0, 1)
        outputs = [output for step in talk.steps for output in step.outputs]
        for output in outputs:
            assert len(output.top) == (3 if output.seq == 0 else 0)
            assert output.top[:1] in ((), ((output.id, output.logprob),))
        assert len(outputs) == 8


def test_an_aborted_sequence_is_not_heard_of_again() -> None:
    with engine(slots=2) as talk:
        talk.admit(0, b"!slow=0.01", 4000)
        talk.admit(1, b"beside", 300)
        talk.admit(2, b"waits for a slot", 5)
        talk.listen(lambda: len(talk.tokens[0]) >= 3)
        talk.abort(0)
        talk.abort(2)
        talk.abort(99)
        talk.finish(1)
        talk.admit(3, b"after", 5)
        talk.finish(3)
        assert talk.tokens[1] == say(b"beside", GREEDY, 300)
        assert talk.tokens[2] == []
        assert 0 not in [output.seq for output in talk.steps[-1].outputs]
        assert talk.steps[-1].free_slots == 2


def test_a_step_that_raises_fails_one_sequence_with_a_sentence() -> None:
    with engine() as talk:
        talk.admit(0, b"!raise@3", 10)
        for seq in (1, 2):
            talk.admit(seq, b"bystander %d" % seq, 100)
        talk.finish(0, 1, 2)
        assert talk.failed.keys() == {0}
        assert talk.failed[0].error == "the step failed: RuntimeError: scripted to raise at position 3"
        assert talk.failed[0].error_type == "generation"
        assert len(talk.tokens[0]) == 3
        for seq in (1, 2):
            assert talk.tokens[seq] == say(b"bystander %d" % seq, GREEDY, 100)


@pytest.mark.parametrize(
    ("prompt", "count", "why"),
    [(b"x" * 60, 10, "exceed 64 in all"), (b"", 5, "no tokens"), (b"x" * 64, 1, "takes 63")],
)
def test_what_cannot_run_is_refused_with_a_sentence(prompt: bytes, count: int, why: str) -> None:
    with engine("scripted?max_total=64") as talk:
        talk.admit(0, prompt, count)
        talk.admit(1, b"fine", 3)
        talk.finish(0, 1)
        assert why in talk.failed[0].error
        assert talk.failed[0].error_type == "validation"
        assert len(talk.tokens[1]) == 3


def test_a_token_the_model_does_not_have_is_refused() -> None:
    with engine() as talk:
        talk.admit(0, b"x", 5, output=[260])
        talk.admit(1, b"x", 5, logit_bias=((260, 1.0),))
        talk.finish(0, 1)
        for seq in (0, 1):
            assert "token ids must lie in [0, 260)" in talk.failed[seq].error


def test_a_runner_on_which_every_step_raises_ends_the_engine() -> None:
    with engine() as talk:
        with suppress(LinkClosed):  # it may be gone before the last has been sent
            for seq in range(4):
                talk.admit(seq, b"!raise@0", 5)
        with pytest.raises(LinkClosed):
            talk.listen(lambda: False)
        assert talk.process.wait(DEADLINE) == EXIT_BROKEN


def test_a_model_that_cannot_be_loaded_is_reported() -> None:
    with EngineProcess.start(LoadSpec(model_id="scripted?fail=the+card+is+gone")) as process:
        talk = Talk(process)
        talk.listen(lambda: talk.load_failed is not None)
        assert talk.load_failed == "the card is gone"
        assert process.wait(DEADLINE) == EXIT_LOAD_FAILED


def test_stop_ends_it_in_the_middle_of_its_work() -> None:
    with engine() as talk:
        talk.admit(0, b"!slow=0.01", 4000)
        talk.listen(lambda: len(talk.tokens[0]) >= 3)
        assert talk.process.stop(DEADLINE) == EXIT_STOPPED
        assert not Path(f"/proc/{talk.process.pid}").exists(), "a zombie is left"


def test_signals_of_the_terminal_and_of_a_supervisor_are_the_parents_to_answer() -> None:
    with engine() as talk:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(talk.process.pid, number)
        talk.admit(0, b"still here", 20)
        talk.finish(0)
        assert talk.tokens[0] == say(b"still here", GREEDY, 20)


def test_an_engine_that_dies_closes_the_link() -> None:
    with engine() as talk:
        talk.admit(0, b"!exit@3", 10)
        with pytest.raises(LinkClosed):
            talk.listen(lambda: False)
        assert talk.process.wait(DEADLINE) == EXIT_SCRIPTED
        assert talk.tokens[0] == say(b"!exit@3", GREEDY, 3)
        assert describe_exit(EXIT_SCRIPTED) == "the engine exited with code 75"


def test_a_step_that_hangs_is_overdue_and_can_be_killed() -> None:
    with engine(patience=2.0) as talk:
        talk.admit(0, b"!hang@3", 10)
        talk.listen(lambda: len(talk.tokens[0]) == 3)
        until(lambda: talk.process.beat.overdue() > 0)
        assert talk.process.poll() is None
        code = talk.process.kill()
        assert code == -signal.SIGKILL
        assert describe_exit(code) == "the engine was killed by SIGKILL"


def test_an_engine_with_nothing_to_do_is_not_overdue() -> None:
    with engine(patience=5.0) as talk:
        before = talk.process.beat.until()
        until(lambda: talk.process.beat.until() > before)
        assert talk.process.beat.overdue() == 0.0


def test_a_parent_that_does_not_read_pauses_it_and_loses_nothing() -> None:
    with engine(slots=8, kv_blocks=8 * 256 + 1) as talk:
        for seq in range(8):
            talk.admit(seq, b"long %d" % seq, 4000)
        before = talk.process.beat.until()
        until(lambda: talk.process.beat.until() > before + 3)
        assert talk.process.beat.overdue() == 0.0
        talk.finish(*range(8))
        for seq in range(8):
            assert talk.tokens[seq] == say(b"long %d" % seq, GREEDY, 4000)


@pytest.mark.parametrize("prompt", [b"!hang@1", b"!slow=0.01"])
def test_it_exits_when_the_link_ends_whatever_it_does(prompt: bytes) -> None:
    with engine() as talk:
        talk.admit(0, prompt, 4000)
        talk.listen(lambda: len(talk.tokens[0]) >= 1)
        talk.process.link.close()
        assert talk.process.wait(DEADLINE) == EXIT_ORPHANED
        assert not alive(talk.process.pid)
