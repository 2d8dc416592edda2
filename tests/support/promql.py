"""As much of PromQL as tells which series an expression selects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^}]*)\})?(?![a-zA-Z0-9_:]*\s*\()")
MATCHER = re.compile(r'([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
WORDS = frozenset({"by", "without", "on", "ignoring", "and", "or", "unless", "bool", "inf", "nan"})


@dataclass(frozen=True)
class Selector:
    """A metric's name and what its labels must be."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def selects(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether it does; a label that is not there is empty."""
        return name == self.name and all(
            _matches(operator, labels.get(label, ""), text) for label, operator, text in self.matchers
        )


def _matches(operator: str, value: str, text: str) -> bool:
    alike = re.fullmatch(text, value) is not None if "~" in operator else value == text
    return alike != operator.startswith("!")


def selectors(expression: str) -> Iterator[Selector]:
    """Every selector of an expression; functions, grouping labels and ranges left out."""
    rest = re.sub(r"\[[^\]]*\]", "", GROUPING.sub("", expression))
    for name, inner in SELECTOR.findall(rest):
        if name not in WORDS:
            yield Selector(name, tuple(MATCHER.findall(inner)))


def grouped_by(expression: str) -> set[str]:
    """The labels that an expression groups by."""
    return {label.strip() for group in GROUPING.findall(expression) for label in group.split(",")}
