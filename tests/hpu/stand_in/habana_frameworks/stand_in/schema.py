"""What an operation's schema says: what it writes, what it gives, and where a number must be a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

TAKE_NUMBERS = frozenset({"add", "div", "mul", "sub"})
"""Operations to which torch lets a Python number be passed where their schema says Tensor, as it passes them to us."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What an operation's schema says of its effects."""

    writes: tuple[int | str, ...]
    """Its arguments that it writes, by place or, keyword-only, by name."""
    outs: frozenset[int | str]
    """Those of them that are all output."""
    returned: tuple[int | str | None, ...]
    """Each of its results: the argument that it is, or None for a new tensor."""
    looks: bool
    """It gives a view of an argument and computes nothing."""
    tensors: tuple[int, ...]
    """Places of the arguments that must be tensors, where a number may not be."""


@cache
def signature_of(op: Any) -> Signature:
    """Of one overload."""
    places: dict[frozenset[str], int | str] = {}
    writes: list[int | str] = []
    outs: set[int | str] = set()
    looks = False
    for place, each in enumerate(op._schema.arguments):
        if (alias := each.alias_info) is None:
            continue
        where = each.name if each.kwarg_only else place
        places[frozenset(alias.before_set)] = where
        looks = looks or not alias.is_write
        if alias.is_write:
            writes.append(where)
            outs.update({where} if each.is_out else ())
    returned = tuple(
        None if each.alias_info is None else places.get(frozenset(each.alias_info.before_set))
        for each in op._schema.returns
    )
    plain = op._schema.name.removeprefix("aten::").rstrip("_") not in TAKE_NUMBERS
    places_of_tensors = (
        i for i, each in enumerate(op._schema.arguments) if str(each.type) == "Tensor" and plain
    )
    return Signature(tuple(writes), frozenset(outs), returned, looks and not writes, tuple(places_of_tensors))


def argument(where: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument in that place or of that name; None if it was not given."""
    if isinstance(where, str):
        return kwargs.get(where)
    return args[where] if where < len(args) else None


def numbered(signature: Signature, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numbers as tensors of the dtype that they have beside the first tensor, where the schema wants tensors."""
    first = next((each for each in args if isinstance(each, Tensor)), None)
    if first is None or not any(
        isinstance(args[i], (int, float)) for i in signature.tensors if i < len(args)
    ):
        return args
    return tuple(
        torch.tensor(each, dtype=torch.result_type(first, each))
        if place in signature.tensors and isinstance(each, (int, float))
        else each
        for place, each in enumerate(args)
    )
