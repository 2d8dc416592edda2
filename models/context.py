"""The forward context: what a step's attention needs and transformers' keyword arguments do not carry everywhere.

One process-wide object with plain attributes, set inside the traced region of a step: a ContextVar cannot be traced.
"""

from __future__ import annotations

from torch import Tensor

from models.layouts import View


class ForwardContext:
    """The step that is running, as tensors. Empty between steps: nothing may hold its tensors alive."""

    __slots__ = ("last", "slots", "view")

    slots: Tensor | None
    """[B * T] int64: where each token's K/V goes in the pools; padding goes to the scratch block."""
    view: View | None
    """How the step's queries read the pools."""
    last: Tensor | None
    """[R] int64: the tokens of the step's one packed row whose logits are wanted; None: those of all tokens."""

    def __init__(self) -> None:
        self.clear()

    def enter(self, slots: Tensor, view: View, last: Tensor | None = None) -> None:
        """Begin a step."""
        self.slots, self.view, self.last = slots, view, last

    def clear(self) -> None:
        """Forget the step."""
        self.slots = self.view = self.last = None


FORWARD = ForwardContext()
"""The one context of this process: a process runs one step at a time."""
