"""What the sources say of each field, for the document: the sentence below it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec


def sentences(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Encoded field name → the sentence below the field, of those that have one; none where there is no source."""
    written: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        if cls is not msgspec.Struct and issubclass(cls, msgspec.Struct):
            written |= dict(_below_fields(cls))
    names = {field.name: field.encode_name for field in msgspec.structs.fields(struct)}
    return {names[name]: text for name, text in written.items() if name in names}


def _below_fields(cls: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return
    body: list[Any] = ast.parse(source).body
    for field, below in pairwise(body[0].body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(below):
            yield field.target.id, " ".join(below.value.value.split())


def _is_text(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
