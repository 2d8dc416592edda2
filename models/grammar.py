"""Constrained output: which tokens may come next, as a grammar over the model's own tokenizer says. No torch.

llguidance does the work: it drops the GIL, raises for nothing that a client could have written, and counts what it
spends, so that a hostile grammar ends in an error of its own sequence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask_par
from numpy.typing import NDArray

MOST_TEXT = 1 << 18
"""Bytes of a grammar's source."""
MOST_SYMBOLS, MOST_STATES = 100_000, 50_000
"""Of one grammar's productions, and of its lexer, at 1 to 2 kB each: what it may take of the host's memory."""
STEP_FUEL, STEP_ITEMS = 200_000, 20_000
"""What one mask may cost: some 15 ms. Within a long literal text it costs more than is counted: wire/grammar.py bounds
those."""

Compiled: TypeAlias = LLMatcher
"""A grammar at its beginning, to be copied for each sequence."""


class BadGrammar(ValueError):
    """The grammar cannot be followed; the message says why."""


def of_schema(schema: str, blanks: str) -> str:
    """llguidance's form of a JSON schema (draft 2020-12); BadGrammar if it is no JSON object.

    `blanks`: a regular expression of what may stand between two parts of the text.
    """
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": blanks})
    except ValueError as error:
        raise BadGrammar(str(error)) from None


def of_regex(pattern: str) -> str:
    """llguidance's form of a regular expression that the whole text must match."""
    return LLMatcher.grammar_from_regex(pattern)


def of_choice(options: Sequence[str]) -> str:
    """llguidance's form of a choice between texts."""
    # One lexeme, not a rule of many: those all would be looked at in every step.
    return LLMatcher.grammar_from_lark("start: ONE\nONE: " + " | ".join(map(json.dumps, options)))


def of_lark(text: str) -> str:
    """llguidance's form of a grammar in its dialect of Lark."""
    return LLMatcher.grammar_from_lark(text)


class Matcher:
    """How far one sequence has come in its grammar. It is not told of tokens one by one: `follow` catches up."""

    def __init__(self, at: LLMatcher) -> None:
        self.at = at
        self._consumed = 0

    def follow(self, output: Sequence[int]) -> str:
        """Go to the end of the output; what is wrong, if that is not of the grammar, or costs too much.

        An output that is shorter than before begins with the same tokens: it is computed anew, or was resumed.
        """
        if len(output) < self._consumed:
            self.at.rollback(self._consumed - len(output))
        elif self._consumed < len(output):
            self.at.consume_tokens(list(output[self._consumed :]))
        self._consumed = len(output)
        return self.error

    @property
    def error(self) -> str:
        """Why it can go no further; empty while it can, if only to the end."""
        return _reason(self.at) if self.at.is_error() else ""


class Grammars:
    """Makes matchers for one model, and masks out of them; `compile` may run on another thread than `masks`."""

    def __init__(self, tokenizer: Path, vocab_size: int, eos_ids: Sequence[int]) -> None:
        """`tokenizer`: the file tokenizer.json. `vocab_size`: the width of the logits."""
        self._tokenizer = LLTokenizer(str(tokenizer), n_vocab=vocab_size, eos_token=list(eos_ids))
        self._limits = LLParserLimits(
            max_grammar_size=MOST_SYMBOLS,
            max_lexer_states=MOST_STATES,
            step_lexer_fuel=STEP_FUEL,
            step_max_items=STEP_ITEMS,
            verbose_errors=False,  # which would tell the text
        )
        self._executor = LLExecutor()
        self._eos = _bits(eos_ids, vocab_size)

    def compile(self, grammar: str) -> Compiled:
        """BadGrammar; it may never come to an end, or take all there is of memory: see models/trial.py."""
        if len(grammar) > MOST_TEXT:
            raise BadGrammar(f"it has {len(grammar)} bytes, and may have {MOST_TEXT}")
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise BadGrammar(_reason(matcher))
        return matcher

    def masks(
        self, rows: int, at: Sequence[tuple[int, Matcher]], early: Mapping[int, Sequence[int]]
    ) -> memoryview:
        """As models.step.Allowed has them: what these rows may choose; everything, all others and who is in error.

        The rows `early`, each with the tokens that end it besides the model's own, may not end yet, unless nothing else
        is possible.
        """
        masks = np.full((rows, len(self._eos)), -1, np.int32)
        if at:
            fill_next_token_bitmask_par(self._executor, [(each.at, row) for row, each in at], masks)
        for row, ends in early.items():
            if (others := masks[row] & ~(self._eos | _bits(ends, 32 * len(self._eos)))).any():
                masks[row] = others
        for row, each in at:
            if each.error:
                masks[row] = -1
        return masks.data


def _bits(ids: Sequence[int], vocab_size: int) -> NDArray[np.int32]:
    """One row of a mask in which these tokens are allowed."""
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    bits[list(ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def _reason(matcher: LLMatcher) -> str:
    return " ".join(matcher.get_error().replace("<non-verbose/>", "").split())[:1000]
