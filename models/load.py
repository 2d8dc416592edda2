"""From a LoadSpec to a runner: find the files, read the weights, check the attention, put the model on its device."""

from __future__ import annotations

import copy
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from models import adoption, attention, hub, moe, rope
from models.assembly import Loaded, assemble
from models.cache import KvPools
from models.devices import Device, device_of, dtype_of
from models.ends import eos_ids
from models.errors import ModelRefused
from models.families import Family, family_of
from models.runner import PagedRunner
from models.sampler import check_vocab
from models.step import LoadSpec, ModelInfo, Progress

_DTYPE_ARGUMENT = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"


@torch.inference_mode()
def load(spec: LoadSpec, progress: Progress) -> PagedRunner:
    """Load the model and plan its shapes; not yet warmed up. ModelRefused, with a sentence, if it cannot serve."""
    device = device_of(spec.device)
    dtype = dtype_of(spec.dtype, device)
    files = hub.resolve(spec, progress)
    config = _read_config(files.folder)
    family_of(config)  # what is not served is refused before its weights are read
    progress("load", 0, 1)
    model = _read_weights(files.folder, config, dtype)
    progress("load", 1, 1)
    return runner_of(model, spec, files, device)


@torch.inference_mode()
def runner_of(model: Any, spec: LoadSpec, files: hub.Files, device: Device) -> PagedRunner:
    """The runner of a model that is in memory, in eval mode; it is the runner's from now on. ModelRefused."""
    family = family_of(model.config)
    pools = KvPools(adopt(model, family), model.dtype)
    longest = rope.settle(model, getattr(model.config, family.positions), spec.max_total_tokens)
    info = _describe(spec, files, model, family, device, longest)
    _put(model, family, device)
    return assemble(Loaded(spec, info, model, pools, device))


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(f"the config.json in {folder} cannot be read: {error}") from error


def _read_weights(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """The model in eval mode; refused if the files lack a weight, for it would be random."""
    quiet: Any = transformers_logging
    quiet.disable_progress_bar()
    auto: Any = AutoModelForCausalLM
    try:
        # Submodules share their config by reference: a copy of its own, or a switch here would reach other models.
        model, loading = auto.from_pretrained(
            folder,
            config=copy.deepcopy(config),
            use_safetensors=True,
            output_loading_info=True,
            **{_DTYPE_ARGUMENT: dtype},
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelRefused(f"the weights in {folder} cannot be read: {error}") from error
    wrong = sorted(map(str, [*loading["missing_keys"], *loading.get("mismatched_keys", ())]))
    if wrong:
        raise ModelRefused(
            f"the weights in {folder} do not fit its config.json: {', '.join(wrong[:5])} missing or wrong"
        )
    return model.eval().requires_grad_(False)


def adopt(model: Any, family: Family) -> dict[torch.nn.Module, Any]:
    """Switch the model to our attention; what each layer keeps of a token.

    Counts the calls of our kernel in one forward: a model that bypasses it would give wrong tokens in silence.
    """
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation = attention.NAME
        if (forward := family.forwards.get(type(module).__name__)) is not None:
            module.forward = MethodType(forward, module)
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            # It reads every step's tokens on the host.
            module.warn_if_padding_and_no_attention_mask = _nothing_to_warn_of
    moe.make_static(model)
    ids = torch.zeros(1, 2, dtype=torch.int64, device=model.device)
    with attention.probing() as calls:
        model(input_ids=ids, position_ids=torch.arange(2, device=model.device)[None], use_cache=False)
    shapes = dict(calls)
    layers = getattr(model.config, family.layers)
    if not len(calls) == len(shapes) == layers:
        raise ModelRefused(
            f"{family.architecture} called our attention {len(calls)} times from {len(shapes)} of its {layers} "
            f"layers: with transformers {transformers.__version__} it would be served wrong"
        )
    return shapes


def _put(model: Any, family: Family, device: Device) -> None:
    """Put the model on the device, and the device's kernels into the model."""
    adoption.adopt(model, device.kernels)
    try:
        device.adapt(model, family.plain)
    except RuntimeError as error:  # torch has no narrower one for "out of memory" on every device
        weights = sum(weight.nbytes for weight in model.parameters())
        raise ModelRefused(
            f"no memory for {weights / 2**30:.1f} GiB of weights on this {device.name}: "
            f"use a smaller dtype, a smaller model or more cards ({error})"
        ) from error


def _nothing_to_warn_of(input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Padding is masked by positions of our own."""


def _describe(
    spec: LoadSpec, files: hub.Files, model: Any, family: Family, device: Device, longest: int
) -> ModelInfo:
    config = model.config
    try:
        check_vocab(config.vocab_size)
    except ValueError as error:
        raise ModelRefused(str(error)) from error
    return ModelInfo(
        model_id=spec.model_id,
        revision=files.revision,
        folder=files.folder,
        device=device.name,
        dtype=str(model.dtype).removeprefix("torch."),
        vocab_size=config.vocab_size,
        eos_ids=eos_ids(model, files.folder),
        max_position=longest,
        watermark=spec.watermark_gamma > 0,
        parameters=sum(weight.numel() for weight in model.parameters()),
        extra={
            "architecture": family.architecture,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **device.info(),
        },
    )
