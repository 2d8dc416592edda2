from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from models.plan import Bucket
from models.step import LoadSpec, Row, Sampling, Step
from tests.support.scheduling import limits, scripted_runner
from worker.script import EOS, SPECIAL, VOCAB_SIZE, byte_alphabet, say, write_tokenizer
from worker.scripted import CannotLoad, ScriptBroken, ScriptedRunner, Settings, load

PROMPT = list(b"hello")
ROW = Row(slot=0, ids=PROMPT, start=0, blocks=(1, 2), sample=True, position=0)
NEXT = replace(ROW, ids=(), start=5, position=1)


@pytest.fixture
def runner() -> ScriptedRunner:
    opened = scripted_runner(limits(prefill_chunk=16))
    opened.open(0, PROMPT, [], Sampling())
    return opened


def prefill(runner: ScriptedRunner, *rows: Row) -> Step:
    bucket = runner.plan.prefill(sum(len(row.ids) for row in rows), sum(len(row.blocks) for row in rows))
    return Step(bucket, rows)


def decode(runner: ScriptedRunner, *rows: Row) -> Step:
    return Step(runner.plan.decode(len(rows), max(len(row.blocks) for row in rows)), rows)


def test_the_text_depends_on_prompt_and_when_sampling_on_the_seed() -> None:
    sampled = Sampling(do_sample=True, seed=1)
    assert say(PROMPT, Sampling(seed=1), 50) == say(PROMPT, Sampling(seed=2), 50)
    assert say(PROMPT, sampled, 50) != say(PROMPT, replace(sampled, seed=2), 50)
    assert say(PROMPT, Sampling(), 50) != say(b"hallo", Sampling(), 50)
    assert say(PROMPT, Sampling(), 50)[:20] == say(PROMPT, Sampling(), 20)


def test_the_text_is_utf8_with_characters_of_several_bytes() -> None:
    text = bytes(say(PROMPT, Sampling(), 400)).decode(errors="ignore")
    assert len(text) < len(text.encode())
    assert text.encode() == bytes(say(PROMPT, Sampling(), 400))[: len(text.encode())]


def test_an_end_of_sequence_waits_for_min_new_tokens() -> None:
    assert say(b"!eos@3", Sampling(), 5)[3] == EOS
    assert EOS not in say(b"!eos@3", Sampling(min_new_tokens=4), 5)


def test_the_tokenizer_reads_what_the_script_says(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Grüße, 東京 🌍\n\t!raise@3 \x00\x7f"
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.encode("<|user|>a</s>").ids == [258, 97, 257]
    assert tokenizer.get_vocab_size() == VOCAB_SIZE == 256 + len(SPECIAL)
    assert len(set(byte_alphabet())) == 256
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
    }


def test_a_right_walk_passes_and_says_the_script(runner: ScriptedRunner) -> None:
    (first,) = runner.launch(prefill(runner, ROW)).read().sampled
    (second,) = runner.launch(decode(runner, NEXT)).read().sampled
    assert [first.id, second.id] == say(PROMPT, Sampling(), 2)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"slot": 1}, "slot 1 was not opened"),
        ({"ids": list(b"hallo")}, "other tokens"),
        ({"ids": []}, "a chunk without"),
        ({"sample": False}, "a token wanted"),
        ({"targets": PROMPT[1:]}, "targets and no scores"),
        ({"ids": PROMPT[:3]}, "a token wanted"),
        ({"position": 1}, "position 1, but 0"),
        ({"blocks": (0, 1)}, "scratch"),
        ({"blocks": (1, 1)}, "twice"),
        ({"blocks": (1, 99)}, "absent"),
        ({"blocks": (1,)}, "too short"),
        ({"ids": PROMPT[3:], "start": 3}, "hold something else"),
    ],
)
def test_a_wrong_row_is_caught(runner: ScriptedRunner, wrong: dict[str, Any], why: str) -> None:
    row = replace(ROW, **wrong)
    step = Step(runner.plan.prefill(5, 2), (row,))
    with pytest.raises(ScriptBroken, match=why):
        runner.launch(step)


def test_a_bucket_outside_the_plan_is_a_key_error(runner: ScriptedRunner) -> None:
    with pytest.raises(KeyError, match="not in the plan"):
        runner.launch(Step(Bucket("prefill", 1, 5, 2), (ROW,)))


def test_a_row_that_does_not_fit_its_bucket_is_caught(runner: ScriptedRunner) -> None:
    with pytest.raises(ScriptBroken, match="larger than their bucket"):
        runner.launch(Step(runner.plan.prefill(5, 2), (replace(ROW, ids=PROMPT * 9),)))


def test_a_decode_row_of_a_slot_that_has_sampled_nothing_is_caught(runner: ScriptedRunner) -> None:
    with pytest.raises(ScriptBroken, match="has sampled nothing"):
        runner.launch(decode(runner, replace(NEXT, start=4, position=0)))


def test_a_prompt_is_scored_in_a_score_step(runner: ScriptedRunner) -> None:
    scored = replace(ROW, targets=PROMPT[1:])
    outcome = runner.launch(Step(runner.plan.score(5, 2), (scored,))).read()
    assert len(outcome.scores) == 4
    with pytest.raises(ScriptBroken, match="not the next tokens"):
        runner.launch(Step(runner.plan.score(5, 2), (replace(scored, targets=PROMPT[:4]),)))


def test_a_block_that_somebody_else_wrote_over_is_caught(runner: ScriptedRunner) -> None:
    runner.launch(prefill(runner, ROW)).read()
    runner.open(1, b"other", [], Sampling())
    runner.launch(prefill(runner, replace(ROW, slot=1, ids=list(b"other"), blocks=(2, 3)))).read()
    with pytest.raises(ScriptBroken, match="hold something else"):
        runner.launch(decode(runner, NEXT))


def test_two_rows_that_write_one_block_are_caught(runner: ScriptedRunner) -> None:
    runner.open(1, PROMPT, [], Sampling())
    with pytest.raises(ScriptBroken, match="two rows share"):
        runner.launch(prefill(runner, ROW, replace(ROW, slot=1, blocks=(2, 3))))


def test_settings_come_from_the_model_id() -> None:
    assert Settings.parse("scripted") == Settings()
    assert Settings.parse("scripted?step=0.5&max_total=64&seed=3") == Settings(step=0.5, max_total=64, seed=3)


@pytest.mark.parametrize(
    ("model_id", "why"),
    [
        ("scripted?sleep=1", "no option 'sleep'"),
        ("scripted?step=fast", "'fast' is not a number"),
        ("scripted?fail=no+such+card", "^no such card$"),
        ("scripted?max_total=8&max_input=8", "room for at least one new token"),
    ],
)
def test_what_cannot_be_loaded_says_why(model_id: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match=why):
        load(LoadSpec(model_id=model_id, cache_dir=str(tmp_path)), lambda *_: None)


def test_a_folder_says_how_slow_it_is_and_hears_of_its_steps(tmp_path: Path) -> None:
    (tmp_path / "pace").write_text("0.05")
    runner = ScriptedRunner(
        scripted_runner(limits()).info, scripted_runner(limits()).plan, Settings(control=str(tmp_path))
    )
    runner.open(0, PROMPT, [], Sampling())
    began = time.monotonic()
    runner.launch(prefill(runner, ROW)).read()
    assert time.monotonic() - began >= 0.05
    (tmp_path / "pace").write_text("0")
    runner.launch(decode(runner, NEXT)).read()
    assert (tmp_path / "steps").read_text().splitlines() == ["prefill hello:5", "decode hello:1"]
    runner.close()
