"""The backend "hpu_backend": one recipe per graph and shape of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ....stand_in.capture import tensors
from ....stand_in.dispatch import garble, ready
from ....stand_in.memory import is_card, on_host
from ....stand_in.recipes import COMPILER, GATHERING, Graph
from ....stand_in.settings import SETTINGS

OPTIONS = frozenset(
    {
        "force_static_compile", "inference", "keep_input_mutations", "use_boxed_input", "use_eager_fallback",
        "use_graph_freezing", "use_inplace_allreduce", "use_inplace_index_copy",
    }
)  # fmt: skip


class _Compiled:
    """A graph that Dynamo has traced."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        self._module = module
        self._code = module.code

    def __call__(self, *inputs: Any) -> Any:
        """Run it; in compile-only mode for its shapes alone."""
        ready()
        with GATHERING.inside((self._code, Graph().describe(inputs))):
            outputs = self._module(*inputs)
        if COMPILER.compile_only:
            given = {id(each) for each in tensors(inputs)}
            for each in tensors(outputs):
                if is_card(each) and id(each) not in given:
                    garble(on_host(each))
        return outputs


def hpu_backend(
    graph_module: torch.fx.GraphModule, example_inputs: Sequence[Any], options: dict[str, Any] | None = None
) -> _Compiled:
    """A callable for Dynamo; RuntimeError in lazy mode, KeyError for an unknown option."""
    if SETTINGS.lazy:
        raise RuntimeError("torch.compile with hpu_backend needs PT_HPU_LAZY_MODE=0")
    if unknown := (options or {}).keys() - OPTIONS:
        raise KeyError(f"hpu_backend has no option {sorted(unknown)}")
    return _Compiled(graph_module)
