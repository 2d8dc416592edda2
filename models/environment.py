"""What a Gaudi's software must find set before torch is imported: nearly all of it latches there. No torch.

The launcher sets it for an engine; what the operator has set wins. docs/gaudi.md lists the same, with reasons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from models.step import LoadSpec

GAUDI_PLUGIN = "habana-torch-plugin"
"""The distribution whose version is that of Habana's software."""

LAZY = "PT_HPU_LAZY_MODE"

FORKS = ("git", "hpu")
"""How the local part of its version begins in those builds of torch that have the lazy mode; stock ones refuse it."""

RECIPES_MIB = 16384
"""Most of the folder of compiled recipes; Habana's own 1 GiB is less than one plan of a large model can take."""

ALWAYS = {
    # Weights that several modules share must not be copied, or quantized ones take their memory twice.
    "PT_HPU_WEIGHT_SHARING": "0",
    "EXPERIMENTAL_WEIGHT_SHARING": "0",
    # Every shape is planned: a recipe for shapes of any size would hide one that is not.
    "PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES": "0",
}
COMPILING = {
    # Recipes are compiled on several of the host's cores.
    "FUSER_ENABLE_MULTI_THREADED_INVOCATIONS": "1",
}
"""Where torch.compile is the strategy."""

_ELSEWHERE = {"cache_dir", "offline", "token", "recipes", "histogram", "depth", "prefix_cache"}
"""Of a LoadSpec, what no shape and no weight depends on."""


def hpu(spec: LoadSpec, torch: str, given: Mapping[str, str]) -> dict[str, str]:
    """The variables for an engine of that spec on a Gaudi, with torch of that version, and the operator's own."""
    mode = given.get(LAZY) or ("1" if has_lazy_mode(torch) else "0")
    chosen = {LAZY: mode, **ALWAYS, **(COMPILING if mode == "0" else {})}
    if spec.recipes:
        # Folder, whether to empty it at the start, most MiB; a fourth field stops 1.19. Inference appends the rank to
        # the folder's name: this way that one lies in ours, too.
        chosen["PT_HPU_RECIPE_CACHE_CONFIG"] = f"{spec.recipes}/rank,false,{RECIPES_MIB}"
    return {**chosen, **{name: value for name, value in given.items() if name in chosen and value}}


def has_lazy_mode(torch: str) -> bool:
    """Whether that version of torch is one of Habana's builds."""
    return torch.partition("+")[2].startswith(FORKS)


def recipes_folder(root: Path, spec: LoadSpec, software: str) -> Path:
    """Where what is compiled for that spec is kept: another model, dtype, limit or software is another folder."""
    decisive = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name not in _ELSEWHERE}
    text = repr((software, sorted(decisive.items())))
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    name = spec.model_id.rstrip("/").rpartition("/")[2] or "model"
    return root / f"{name.replace(',', '-')}-{digest}"  # commas part the fields of Habana's setting
