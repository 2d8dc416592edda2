"""What may be wrong with a card or its software, done to the stand-in, and which check is to find it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    check: str
    """The first that sees it."""
    says: str
    """A pattern of what it says then."""
    break_it: Callable[[], None]
    """Before the engine's modules are imported."""
    modes: tuple[bool, ...] = (True, False)
    """In which it can be: lazy or not."""


def a_name_is_gone() -> None:
    """The plugin has no norm."""
    from habana_frameworks.torch.hpex import normalization

    del normalization.FusedRMSNorm


def sine_is_cosine() -> None:
    """The rotation takes them in its op's order."""
    from habana_frameworks.torch.hpex import kernels

    turn = kernels.apply_rotary_pos_emb
    kernels.apply_rotary_pos_emb = lambda p, cos, sin, *more: turn(p, sin, cos, *more)


def a_replay_writes_nothing_in_place() -> None:
    """It gives its outputs, and leaves the pools as they are."""
    from habana_frameworks.stand_in.capture import Tape

    again = Tape.replay
    Tape.replay = lambda tape: again(
        replace(tape, operations=[each for each in tape.operations if each.fresh])
    )


def a_compiled_program_works_on_copies() -> None:
    """As if input mutations were not kept."""
    from habana_frameworks.torch.dynamo.compile_backend import _Compiled

    call = _Compiled.__call__

    def on_copies(self: Any, *inputs: Any) -> Any:
        return call(self, *(each.clone() if isinstance(each, Tensor) else each for each in inputs))

    _Compiled.__call__ = on_copies


def an_event_waits_for_nothing() -> None:
    """It is over at once, whatever was asked for before."""
    from habana_frameworks.stand_in.streams import Event

    Event.record = lambda self, stream=None: None


def the_host_reduces() -> None:
    """The card has no maximum by index."""
    from habana_frameworks.stand_in import dispatch

    dispatch.DYNAMIC |= {"aten::index_reduce"}


def nothing_is_sealed() -> None:
    """Dynamo compiles whatever comes."""
    torch.compiler.set_stance = lambda *said, **more: None


def an_embedding_is_its_neighbours() -> None:
    """An operation that no check looks at by itself."""
    from habana_frameworks.stand_in import dispatch

    run, op = dispatch.run, torch.ops.aten.embedding.default

    def neighbours(table: Any, ids: Any, *more: Any) -> Any:
        return op(table.roll(1, 0), ids, *more)

    def wrong(asked: Any, kernel: Any, args: Any, kwargs: Any) -> Any:
        return run(asked, neighbours if asked is op else kernel, args, kwargs)

    dispatch.run = wrong


def every_recipe_is_new() -> None:
    """As if its key held an address."""
    from habana_frameworks.stand_in.recipes import Compiler

    compile_, turns = Compiler.compile, count()
    Compiler.compile = lambda self, key, *eager: compile_(self, (key, next(turns)), *eager)


def no_recipe_is_read() -> None:
    """They are written, and never found."""
    from habana_frameworks.stand_in.disk import Disk

    Disk.has = lambda self, key: False


FAULTS: Mapping[str, Fault] = {
    "name": Fault("card", "cannot import name 'FusedRMSNorm'", a_name_is_gone),
    "sine": Fault("kernels", "rotate differs most", sine_is_cosine),
    "pools": Fault("replay", "gave something else", a_replay_writes_nothing_in_place, (True,)),
    "mutations": Fault(
        "replay", "the pool holds something else", a_compiled_program_works_on_copies, (False,)
    ),
    "event": Fault("fetch", r"copies hold \[nan", an_event_waits_for_nothing),
    "reduction": Fault(
        "decode", "index_reduce is not supported during|other values compiled 1 programs", the_host_reduces
    ),
    "seal": Fault("sealed", "an unplanned shape was compiled", nothing_is_sealed, (False,)),
    "embedding": Fault("engine", "first tokens equal 0 of 4", an_embedding_is_its_neighbours),
    "keys": Fault(
        "engine", r"^[1-9]\d* compiled after warm-up; first tokens equal 4 of 4", every_recipe_is_new
    ),
    "disk": Fault("again", "compiled at the start", no_recipe_is_read),
}
