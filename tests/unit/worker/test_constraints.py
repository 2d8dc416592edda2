"""Grammars over the scripted tokenizer, whose tokens are bytes: what may come next can be read off."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.step import Sampling
from tests.support.processes import until
from wire.grammar import MOST_OPTIONS, Choice, Grammar, JsonObject, Lark, Regex, Schema
from worker import constraints
from worker.constraints import Constraints
from worker.scheduler import Refused
from worker.script import EOS, VOCAB_SIZE, write_tokenizer
from worker.sequence import Sequence
from worker.trials import Trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def trials(folder: Path) -> Iterator[Trials]:
    """One process for all tests."""
    made = Trials(folder / "tokenizer.json", VOCAB_SIZE, (EOS,))
    yield made
    made.close()


@pytest.fixture
def grammars(folder: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch) -> Iterator[Constraints]:
    made = Constraints(folder, VOCAB_SIZE, (EOS,))
    with monkeypatch.context() as patch:
        patch.setattr(constraints, "Trials", lambda *_: trials)
        patch.setattr(trials, "close", lambda: None)
        yield made
        made.close()
        if made._thread:
            made._thread.join(30)


def sequence(seq: int = 0, output: bytes = b"", least: int = 0) -> Sequence:
    return Sequence(
        seq=seq,
        prompt=(1,),
        output=list(output),
        sampling=Sampling(constrained=True, min_new_tokens=least),
        max_new_tokens=1000,
    )


def outcome(grammars: Constraints, each: Sequence, grammar: Grammar) -> Refused | None:
    """Have it compiled."""
    found: list[Refused | None] = []
    grammars.admit([each], grammar, "")

    def heard() -> bool:
        found.extend(error for _, error in grammars.ready())
        return bool(found)

    until(heard)
    return found[0]


def ready(grammars: Constraints, each: Sequence, grammar: Grammar) -> Sequence:
    assert outcome(grammars, each, grammar) is None
    return each


def next_of(grammars: Constraints, *rows: Sequence | None) -> list[set[int]]:
    """The tokens that each row may choose."""
    masks, failed = grammars.masks(rows)
    assert not failed
    bits = np.unpackbits(np.asarray(masks).view(np.uint8), axis=1, bitorder="little")
    return [set(np.flatnonzero(row)) for row in bits]


def said(*texts: str) -> set[int]:
    return {ord(text) for text in texts}


EVERYTHING = set(range(-(-VOCAB_SIZE // 32) * 32))


@pytest.mark.parametrize(
    ("grammar", "output", "expected"),
    [
        (Regex("ab|cd"), b"", said("a", "c")),
        (Regex("ab|cd"), b"a", said("b")),
        (Regex("ab?"), b"a", {ord("b"), EOS}),
        (Regex("ab"), b"ab", {EOS}),
        (Choice(("yes", "no", 'a"b')), b"", said("y", "n", "a")),
        (Choice(("yes", "no", 'a"b')), b'a"', said("b")),
        (Schema('{"type":"boolean"}'), b"", said("t", "f")),
        (Schema('{"enum":["x"]}'), b'"x', said('"')),
        (JsonObject(), b"", said("{")),
        (Lark('start: "go" | "stop"'), b"s", said("t")),
    ],
)
def test_what_may_come_next(
    grammar: Grammar, output: bytes, expected: set[int], grammars: Constraints
) -> None:
    assert next_of(grammars, ready(grammars, sequence(output=output), grammar)) == [expected]


def test_rows_without_a_grammar_may_choose_everything(grammars: Constraints) -> None:
    one, two = (ready(grammars, sequence(seq), Regex(text)) for seq, text in enumerate(("a", "b")))
    rows = next_of(grammars, None, one, None, two)
    assert rows == [EVERYTHING, said("a"), EVERYTHING, said("b")]


def test_it_catches_up_with_whatever_became_of_the_output(grammars: Constraints) -> None:
    each = ready(grammars, sequence(), Regex("abc[de]"))
    each.output.extend(b"ab")
    assert next_of(grammars, each) == [said("c")]
    each.output.append(ord("c"))
    assert next_of(grammars, each) == [said("d", "e")]
    del each.output[1:]  # it is computed anew
    assert next_of(grammars, each) == [said("b")]
    each.output.clear()
    assert next_of(grammars, each) == [said("a")]


def test_one_that_must_not_end_yet_ends_only_if_nothing_else_is_left(grammars: Constraints) -> None:
    each = ready(grammars, sequence(output=b"a", least=3), Regex("ab?"))
    assert next_of(grammars, each) == [said("b")]
    each.output.append(ord("b"))
    assert next_of(grammars, each) == [{EOS}]


def test_the_tokens_that_end_it_besides_are_banned_with_the_end(grammars: Constraints) -> None:
    each = ready(grammars, sequence(output=b"a", least=3), Regex("a[bc]*"))
    each.sampling = replace(each.sampling, stop_token_ids=(ord("c"),))
    assert next_of(grammars, each) == [said("b")]
    each.output.extend(b"bb")
    assert next_of(grammars, each) == [{*said("b", "c"), EOS}]


def test_an_output_that_is_not_of_the_grammar_fails_its_own_sequence(grammars: Constraints) -> None:
    good, bad = ready(grammars, sequence(0), Regex("a")), ready(grammars, sequence(1, b"x"), Regex("a"))
    masks, failed = grammars.masks([bad, good])
    assert [each for each, _ in failed] == [bad] and failed[0][1]
    rows = np.unpackbits(np.asarray(masks).view(np.uint8), axis=1, bitorder="little")
    assert rows[0].all() and rows[1].sum() == 1


NESTED = '{"type":"array","items":' * 400 + "{}" + "}" * 400


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        (Regex("(a"), "unclosed group"),
        (Regex("(?=a)b"), "look-around"),
        (Schema('{"dependentSchemas":{"a":{}}}'), "dependentSchemas"),
        (Schema('{"$ref":"http://example.org/schema"}'), "example.org"),
        (Schema('{"type":"strange"}'), "strange"),
        (Schema('{"type":"integer","minimum":2,"maximum":1}'), "minimum"),
        (Schema(NESTED), "recursion"),
        (Schema("[1]"), "object"),
        (Lark("start: nothing"), "nothing"),
        (Lark('start: "a' + "a" * constraints.MOST_KEPT_BYTES + '"'), "bytes, and may have"),
    ],
)
def test_one_that_cannot_be_compiled_is_refused(grammar: Grammar, why: str, grammars: Constraints) -> None:
    error = outcome(grammars, sequence(), grammar)
    assert error and str(error).startswith("grammar is not valid: ") and why in str(error)


HOSTILE: dict[str, Grammar] = {
    "nested counts": Regex("((a{1,1000}){1,1000}){1,1000}"),
    "subsets": Regex("(a|b)*a(a|b){24}"),
    "many dots": Regex("(.*a){60}"),
    "many properties": Schema(
        '{"type":"object","properties":{'
        + ",".join(f'"p{i}":{{"type":"string"}}' for i in range(4000))
        + "}}"
    ),
    "all of any of": Schema(
        '{"allOf":['
        + ",".join(f'{{"anyOf":[{{"minimum":{i}}},{{"multipleOf":{i + 1}}}]}}' for i in range(24))
        + "]}"
    ),
    "only itself": Schema('{"$ref":"#"}'),
    "endless string": Schema('{"type":"string","minLength":100000000}'),
    "endless list": Schema('{"type":"array","items":{"type":"integer"},"minItems":100000000}'),
    "ambiguous": Lark('start: a\na: a a | "x" | "xx" | "xxx"'),
    "left and right": Lark('start: e\ne: e "+" e | e e | "(" e ")" | /[a-z]+/ |'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_one_costs_its_own_sequence_and_no_more(name: str, grammars: Constraints) -> None:
    """It may be refused, fail on its way, or simply run: never for long, and never others."""
    each, other = sequence(0), ready(grammars, sequence(1), Regex("[a-z]*"))
    if outcome(grammars, each, HOSTILE[name]):
        return
    for _ in range(200):
        masks, failed = grammars.masks([each, other])
        assert other not in [one for one, _ in failed]
        if failed:
            return
        bits = np.unpackbits(np.asarray(masks).view(np.uint8), axis=1, bitorder="little")
        if not (open_ended := [int(token) for token in np.flatnonzero(bits[0]) if token != EOS]):
            return
        each.output.append(open_ended[len(each.output) % len(open_ended)])
        other.output.append(ord("x"))


@pytest.fixture
def stuck(grammars: Constraints, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Compilation waits for this."""
    go = threading.Event()
    real = constraints.source_of

    def slow(grammar: Grammar) -> str:
        assert go.wait(30)
        return real(grammar)

    monkeypatch.setattr(constraints, "source_of", slow)
    yield go
    go.set()


def test_one_that_takes_too_long_is_refused(
    grammars: Constraints, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraints, "PATIENCE", 0.05)
    error = outcome(grammars, sequence(), Regex("a"))
    assert "could not be compiled within" in str(error) and not grammars.waiting


def test_one_that_was_dropped_meanwhile_is_forgotten(grammars: Constraints, stuck: threading.Event) -> None:
    grammars.admit([sequence(1)], Regex("a"), "")
    assert grammars.waiting and grammars.drop(1) and not grammars.waiting and not grammars.drop(1)
    stuck.set()
    ready(grammars, sequence(2), Regex("b"))
    time.sleep(0.05)
    assert grammars.ready() == []


def test_the_same_grammar_is_compiled_once(grammars: Constraints, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Grammar] = []
    real = constraints.source_of

    def noted(grammar: Grammar) -> str:
        compiled.append(grammar)
        return real(grammar)

    monkeypatch.setattr(constraints, "source_of", noted)
    one, two = (ready(grammars, sequence(seq), Regex("a|b")) for seq in (1, 2))
    assert compiled == [Regex("a|b")]
    one.output.append(ord("a"))
    assert next_of(grammars, one, two) == [{EOS}, said("a", "b")], "each has a matcher of its own"


def test_what_is_kept_is_bounded(grammars: Constraints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "MOST_KEPT", 3)
    for seq in range(9):
        ready(grammars, sequence(seq), Regex("a" * 30 + str(seq)))
    assert [*grammars._kept] == [Regex("a" * 30 + str(seq)) for seq in (6, 7, 8)]
    monkeypatch.setattr(constraints, "MOST_KEPT_BYTES", 20 << 20)
    ready(grammars, sequence(9), GREEDY)
    assert not grammars._kept


GREEDY = Schema('{"type":"integer","multipleOf":99991}')
"""40 bytes whose automaton takes 60 MB."""
BOUNDLESS = {
    "states": Schema('{"type":"integer","multipleOf":99999989}'),
    "intersections": Schema(
        json.dumps(
            {"allOf": [{"type": "string", "pattern": f"(a|b){{{i},{i + 50}}}[ab]{{10}}"} for i in range(60)]}
        )
    ),
}


@pytest.mark.parametrize("name", BOUNDLESS)
def test_one_that_would_never_be_compiled_is_given_up_and_those_behind_it_are_not(
    name: str, grammars: Constraints
) -> None:
    hostile, innocent = sequence(1), sequence(2)
    grammars.admit([hostile], BOUNDLESS[name], "")
    grammars.admit([innocent], Regex("b"), "")
    found: dict[int, Refused | None] = {}

    def both() -> bool:
        found.update({waiting.sequences[0].seq: error for waiting, error in grammars.ready()})
        return len(found) == 2

    began = time.monotonic()
    until(both, 25)
    assert "compiling it takes more than" in str(found[1]) and found[2] is None
    before = time.monotonic() - began
    assert "compiling it takes more than" in str(outcome(grammars, sequence(3), BOUNDLESS[name]))
    assert time.monotonic() - began - before < 1, "it is not tried again"


def test_most_options_are_no_trouble(grammars: Constraints) -> None:
    options = tuple(f"option {index} of many" for index in range(MOST_OPTIONS))
    each = ready(grammars, sequence(output=b"option 409"), Choice(options))
    assert next_of(grammars, each) == [said(" ", *"012345")]
    each.output += b"5 of many"
    assert next_of(grammars, each) == [{EOS}]


def test_a_choice_that_another_begins_with_may_end_there(grammars: Constraints) -> None:
    each = ready(grammars, sequence(output=b"yes"), Choice(("yes", "yesterday", "no")))
    assert next_of(grammars, each) == [{ord("t"), EOS}]
