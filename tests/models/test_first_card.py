"""Each check for a first card fails where what it checks is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from models.captured import Compiled, Eager, Function, Outputs
from models.devices import Cpu
from models.devices.cpu import Held
from models.first_card import __main__ as checks
from models.first_card import small, texts
from models.first_card.subject import Subject
from models.kernels import Kernels
from models.step import LoadSpec
from worker.doctor import first_card

SPEC = LoadSpec(model_id="demo", device="cpu")


def subject(device: Cpu) -> Subject:
    return Subject(device, SPEC)


def test_the_doctor_knows_every_check_in_its_order() -> None:
    assert list(checks.CHECKS) == list(first_card.CHECKS)
    assert all(callable(checks.check_of(name)) for name in checks.CHECKS)


class Forgetful(Eager):
    """Replays what it saw when it was captured."""

    def capture(self, function: Function, inputs: Mapping[str, Tensor]) -> Callable[[], Outputs]:
        kept = {name: value.clone() for name, value in inputs.items()}
        return lambda: function(**kept)


class Overwriting(Eager):
    """Its outputs are always the same tensors, as a captured program's are."""

    def capture(self, function: Function, inputs: Mapping[str, Tensor]) -> Callable[[], Outputs]:
        outputs = function(**inputs)

        def replay() -> Outputs:
            for kept, new in zip(outputs, function(**inputs), strict=True):
                kept.copy_(new)
            return outputs

        return replay


@dataclass(frozen=True)
class Card(Cpu):
    """A host with another strategy."""

    chosen: Any = None

    def strategy(self) -> Any:
        return self.chosen


class Recompiling(Card):
    """Whatever is asked, it has compiled one more."""

    count = 0

    def compilations(self) -> int:
        Recompiling.count += 1
        return Recompiling.count


class Snapshot(Card):
    """Copies when asked, as a device does."""

    def fetch(self, tensor: Tensor) -> Held:
        return Held(tensor.clone())


def test_a_replay_of_old_inputs_is_found() -> None:
    assert small.replay(subject(Card(chosen=Eager()))).good
    assert not small.replay(subject(Card(chosen=Forgetful()))).good


def test_a_copy_that_comes_too_late_is_found() -> None:
    assert small.fetch(subject(Snapshot(chosen=Overwriting()))).good
    assert not small.fetch(subject(Card(chosen=Overwriting()))).good


def test_a_kernel_that_is_wrong_is_named() -> None:
    wrong = Kernels(rotate=lambda x, cosine, sine: x * cosine[:, None] + x * sine[:, None])
    seen = small.kernels(subject(Cpu(kernels=wrong)))
    assert not seen.good and seen.text.startswith("rotate differs most")
    assert seen.figures["attention"] == 0


def test_what_is_compiled_for_new_values_is_found() -> None:
    assert small.decode(subject(Card(chosen=Eager()))).good
    seen = small.decode(subject(Recompiling(chosen=Eager())))
    assert not seen.good and "compiled 1 programs" in seen.text


def test_a_seal_that_does_not_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not small.sealed(subject(Card(chosen=Compiled("eager")))).good
    monkeypatch.setattr(Card, "seal", lambda self: torch.compiler.set_stance("fail_on_recompile"))
    assert small.sealed(subject(Card(chosen=Compiled("eager")))).good


def test_texts_are_the_hosts() -> None:
    seen = texts.engine(Subject(Cpu(), SPEC))
    assert seen.good and seen.figures["texts equal to the host's"] == 1
    assert [len(text) for text in seen.tokens] == [texts.NEW] * texts.PROMPTS


def test_agreement_ends_with_the_first_difference() -> None:
    assert texts.agreement((1, 2, 3, 4), (1, 2, 9, 4)) == 0.5
    assert texts.agreement((1, 2), (1, 2)) == 1
