"""What constrained rows cost the host in a decode step: their matchers advanced, their masks computed. No model.

Every row follows a grammar and chooses at random among what it allows; one that has come to its end begins another.
The tokenizer is synthetic: bytes, then words, numbers and what JSON is made of, as tokenizers of that size have them.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from bench.hardware import hardware, spread
from models import grammar as forms
from models.grammar import Grammars, Matcher
from wire.grammar import BLANKS
from wire.tools import FORMATS, Tool, grammar_of

END = "</s>"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["new", "regular", "vip"]}},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
        },
        "note": {"anyOf": [{"type": "string", "maxLength": 80}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
TOOLS = [Tool("search", json.dumps(SCHEMA)), Tool("book")]


def write_tokenizer(path: Path, size: int) -> None:
    """So many tokens, the end among them."""
    chance = random.Random(0)
    vocab = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocab |= dict.fromkeys(map("".join, product("0123456789", repeat=2)))
    vocab |= dict.fromkeys(map("".join, product("0123456789", repeat=3)))
    vocab |= dict.fromkeys(map("".join, product('{}[]":,.\\/-_()Ġ', repeat=2)))
    syllables = ["".join(each) for each in product("bcdfghklmnprstvwz", "aeiou", ["", "n", "r", "s", "t"])]
    while len(vocab) < size - 1:
        word = "".join(chance.choices(syllables, k=chance.choice((1, 2, 2, 3, 3, 4))))
        vocab[chance.choice(("", "Ġ", "Ġ", '"', "_")) + (word.title() if chance.random() < 0.3 else word)] = (
            None
        )
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(vocab)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    tokenizer.save(str(path))


def kinds() -> dict[str, str]:
    """What the rows follow, in llguidance's form."""
    hermes = next(row for row in FORMATS if row.name == "hermes")
    return {
        "schema": forms.of_schema(json.dumps(SCHEMA), BLANKS),
        "any object": forms.of_schema('{"type":"object"}', BLANKS),
        "regex": forms.of_regex(r"[a-z0-9.]{1,30}@([a-z]{2,12}\.){1,3}(com|org|net)"),
        "tools": forms.of_lark(grammar_of(TOOLS, hermes, {}, required=True).text),
        "any words": forms.of_regex(r"[\w ]{1,200}"),
    }


class Rows:
    """So many constrained sequences, which all take a token in each step."""

    def __init__(self, grammars: Grammars, sources: list[str], count: int, end: int, seed: int) -> None:
        self._grammars, self._end = grammars, end
        self._starts = [grammars.compile(sources[index % len(sources)]) for index in range(count)]
        self._matchers = [Matcher(start.deep_copy()) for start in self._starts]
        self._outputs: list[list[int]] = [[] for _ in range(count)]
        self._chance = np.random.default_rng(seed)

    def step(self) -> tuple[float, float]:
        """Its time in ms, by the clock and of all processors; then everybody chooses."""
        began, cpu = time.perf_counter(), time.process_time()
        for matcher, output in zip(self._matchers, self._outputs, strict=True):
            if error := matcher.follow(output):
                raise RuntimeError(error)
        masks = self._grammars.masks(len(self._matchers), [*enumerate(self._matchers)], {})
        taken = 1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu)
        for row, mask in enumerate(np.asarray(masks)):
            self._choose(row, mask)
        return taken

    def _choose(self, row: int, mask: NDArray[np.int32]) -> None:
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self._end + 1]
        token = int(self._chance.choice(np.flatnonzero(bits)))
        if token == self._end:
            self._matchers[row], self._outputs[row] = Matcher(self._starts[row].deep_copy()), []
        else:
            self._outputs[row].append(token)


def report(name: str, rows: Rows, warm: int, steps: int) -> None:
    """One line."""
    longest = max(rows.step()[0] for _ in range(warm))
    wall, cpu = zip(*(rows.step() for _ in range(steps)), strict=True)
    shares = ", ".join(f"{forward} ms {hidden(wall, forward):.1%}" for forward in (2, 5, 20))
    print(
        f"{name:10} wall {spread(wall)}, p99 {sorted(wall)[steps * 99 // 100]:.2f}; CPU {spread(cpu)}; "
        f"the longest, cold ones too, {max(longest, *wall):.1f}; hidden behind a forward of {shares}",
        flush=True,
    )


def hidden(times: Sequence[float], forward: float) -> float:
    """The share of all that time which passes while forwards of so many ms run on a device of their own."""
    return sum(min(each, forward) for each in times) / sum(times)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=128_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--warm", type=int, default=100, help="steps before those that are timed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(hardware("llguidance", "numpy", "tokenizers"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        write_tokenizer(path, options.vocab)
        began = time.perf_counter()
        grammars = Grammars(path, options.vocab, [options.vocab - 1])
        print(
            f"{options.vocab} tokens, read in {time.perf_counter() - began:.1f} s; {options.rows} rows; ms per step"
        )
    sources = kinds()
    chosen = {name: [source] for name, source in sources.items()} | {"mixed": [*sources.values()]}
    for name, each in chosen.items():
        report(
            name,
            Rows(grammars, each, options.rows, options.vocab - 1, options.seed),
            options.warm,
            options.steps,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
