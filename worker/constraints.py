"""The grammars of an engine's sequences: compiled beside the step loop, kept by content, asked for masks within it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence as Seq
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from wire.grammar import BLANKS, Choice, Grammar, JsonObject, Lark, Regex, Schema
from worker.scheduler import Refused
from worker.sequence import Sequence
from worker.trials import Trials

if TYPE_CHECKING:
    from models.grammar import Compiled, Grammars, Matcher

PATIENCE = 30.0
"""Seconds that a grammar may wait for others and be compiled; one alone is given up sooner: models/trial.py."""
MOST_KEPT, MOST_KEPT_BYTES = 256, 256 << 20
"""Compiled grammars that are kept, and the memory that they take."""


class Waiting(NamedTuple):
    """Sequences whose grammar is being compiled."""

    sequences: list[Sequence]
    salt: str
    until: float
    """When it is given up, by time.monotonic()."""


class Kept(NamedTuple):
    """What became of a grammar."""

    answer: Compiled | str
    """The compiled one, or what is wrong with it."""
    memory: int
    """Bytes that it takes, its source at least."""


class Masked(NamedTuple):
    """What a step's rows may choose, and the sequences that can go no further, with the reason."""

    masks: memoryview
    failed: list[tuple[Sequence, str]]


class Constraints:
    """One thread's but for what its own thread compiles: that one is a daemon, and holds no process up."""

    def __init__(self, folder: Path, vocab_size: int, eos_ids: Seq[int]) -> None:
        """`folder` has the tokenizer's files; it is read with the first grammar."""
        self._model = folder / "tokenizer.json", vocab_size, tuple(eos_ids)
        self._grammars: Grammars | None = None
        self._waiting: dict[int, Waiting] = {}
        """By the number under which the thread knows them."""
        self._numbers = count()
        self._jobs: SimpleQueue[tuple[int, Grammar] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, Compiled | str]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._kept: OrderedDict[Grammar, Kept] = OrderedDict()

    @property
    def waiting(self) -> bool:
        """Whether a grammar is being compiled."""
        return bool(self._waiting)

    def admit(self, sequences: Seq[Sequence], grammar: Grammar, salt: str) -> None:
        """Have it compiled; `ready` gives the sequences back."""
        number = next(self._numbers)
        self._waiting[number] = Waiting(list(sequences), salt, time.monotonic() + PATIENCE)
        self._jobs.put((number, grammar))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
            self._thread.start()

    def drop(self, seq: int) -> bool:
        """Forget a sequence that waits for its grammar; whether it did."""
        for number, waiting in self._waiting.items():
            for sequence in waiting.sequences:
                if sequence.seq == seq:
                    waiting.sequences.remove(sequence)
                    if not waiting.sequences:
                        del self._waiting[number]
                    return True
        return False

    def ready(self) -> list[tuple[Waiting, Refused | None]]:
        """The sequences whose grammars are there, and those that will have none."""
        found: list[tuple[Waiting, Refused | None]] = []
        while not self._done.empty():
            number, answer = self._done.get()
            if (waiting := self._waiting.pop(number, None)) is None:
                continue
            if isinstance(answer, str):
                found.append((waiting, Refused(f"grammar is not valid: {answer}")))
                continue
            for sequence in waiting.sequences:
                sequence.matcher = self._matcher(answer)
            found.append((waiting, None))
        now = time.monotonic()
        for number, waiting in [pair for pair in self._waiting.items() if pair[1].until <= now]:
            del self._waiting[number]
            late = f"grammar is not valid: it could not be compiled within {PATIENCE:.0f} s: make it smaller"
            found.append((waiting, Refused(late)))
        return found

    def masks(self, sequences: Seq[Sequence | None]) -> Masked:
        """For the rows of a step, None where there is no constraint: what each may choose after its output."""
        grammars, failed = self._grammars, list[tuple[Sequence, str]]()
        assert grammars, "a sequence with a matcher had its grammar compiled"
        at: list[tuple[int, Sequence, Matcher]] = []
        for row, sequence in enumerate(sequences):
            if sequence is None or sequence.matcher is None:
                continue
            if error := sequence.matcher.follow(sequence.output):
                failed.append((sequence, error))
            else:
                at.append((row, sequence, sequence.matcher))
        masks = grammars.masks(len(sequences), [(row, matcher) for row, _, matcher in at], _early(at))
        failed += [(s, error) for _, s, matcher in at if (error := matcher.error)]
        return Masked(masks, failed)

    def close(self) -> None:
        """Nothing is compiled any more."""
        self._jobs.put(None)

    def _matcher(self, compiled: Compiled) -> Matcher:
        from models.grammar import Matcher

        return Matcher(compiled.deep_copy())

    def _run(self) -> None:
        """The thread's: torch is in this process already, and what it imports here is small."""
        from models.grammar import Grammars

        trials: Trials | None = None
        while job := self._jobs.get():
            number, grammar = job
            if number not in self._waiting:
                continue
            try:
                trials = trials or Trials(*self._model)  # they read the tokenizer meanwhile
                self._grammars = self._grammars or Grammars(*self._model)
                self._done.put((number, self._compiled(self._grammars, trials, grammar)))
            except Exception as error:  # a tokenizer that it cannot read: whoever asks hears of it
                self._done.put((number, f"{type(error).__name__}: {error}"))
        if trials:
            trials.close()

    def _compiled(self, grammars: Grammars, trials: Trials, grammar: Grammar) -> Compiled | str:
        """From what is kept, or anew; or what is wrong with it."""
        if (kept := self._kept.get(grammar)) is None:
            kept = self._kept[grammar] = _compile(grammars, trials, grammar)
        self._kept.move_to_end(grammar)
        while (
            len(self._kept) > MOST_KEPT or sum(each.memory for each in self._kept.values()) > MOST_KEPT_BYTES
        ):
            self._kept.popitem(last=False)
        return kept.answer


def _compile(grammars: Grammars, trials: Trials, grammar: Grammar) -> Kept:
    """Try it first: what is compiled here cannot be stopped."""
    from models.grammar import BadGrammar

    try:
        source = source_of(grammar)
    except BadGrammar as error:
        return Kept(str(error), size_of(grammar))
    memory, why = trials.of(source)
    return Kept(why or grammars.compile(source), memory + len(source))


def _early(at: Seq[tuple[int, Sequence, object]]) -> dict[int, Seq[int]]:
    """The rows whose sequences must not end yet, with what would end them."""
    return {row: s.sampling.stop_token_ids for row, s, _ in at if len(s.output) < s.sampling.min_new_tokens}


def source_of(grammar: Grammar) -> str:
    """In llguidance's own form. BadGrammar."""
    from models import grammar as forms

    match grammar:
        case Schema():
            return forms.of_schema(grammar.json, BLANKS)
        case JsonObject():
            return forms.of_schema('{"type": "object"}', BLANKS)
        case Regex():
            return forms.of_regex(grammar.pattern)
        case Choice():
            return forms.of_choice(grammar.options)
        case Lark():
            return forms.of_lark(grammar.text)


def size_of(grammar: Grammar) -> int:
    """Characters of its source."""
    match grammar:
        case Schema():
            return len(grammar.json)
        case Regex():
            return len(grammar.pattern)
        case Choice():
            return sum(map(len, grammar.options))
        case Lark():
            return len(grammar.text)
        case JsonObject():
            return 0
