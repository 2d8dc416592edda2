"""The few means with which the corpus is drawn and its tables are written."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

Choice = TypeVar("Choice")


def words(text: str) -> tuple[str, ...]:
    """Splits a line of words, so that a table of them reads as one."""
    return tuple(text.split())


def article(noun: str) -> str:
    """Returns the noun with its indefinite article: "a kite", "an apple"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def weighted(rng: Random, table: Sequence[tuple[Choice, float]]) -> Choice:
    """Draws from rows of (choice, relative weight)."""
    return rng.choices([row[0] for row in table], [row[1] for row in table])[0]
