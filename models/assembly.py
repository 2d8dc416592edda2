"""From a loaded model to a runner: find out what there is room for, plan the shapes, allocate the pools."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from models.cache import KvPools
from models.cost import MACHINES, CostModel, shape_of
from models.devices import Device
from models.errors import ModelRefused
from models.forward import Forward
from models.histogram import counted
from models.limits import choose_limits
from models.plan import Limits, Plan
from models.planner import DEFAULT_GRAPHS, affordable_graphs, choose, outlook, padding
from models.room import Budget, Need, Start, last_start
from models.runner import PagedRunner, Parts
from models.sampler import Sampler
from models.step import LoadSpec, ModelInfo
from models.watermark import Watermark

REPLAN = 0.05
"""Padding, as a share of the work, that a new plan must save to take the place of one whose recipes are kept."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its device, with our attention, and nothing allocated for it yet."""

    spec: LoadSpec
    info: ModelInfo
    model: Any
    pools: KvPools
    device: Device

    def block_bytes(self, limits: Limits) -> int:
        """What one KV block takes."""
        return self.pools.bytes_per_block(limits.block_size)


def assemble(loaded: Loaded) -> PagedRunner:
    """The runner, not yet warmed up: everything is allocated before anything is captured. ModelRefused."""
    device, spec = loaded.device, loaded.spec
    try:
        plan = _plan(loaded, _limits(loaded, device.memory().free))
        sampler = _sampler(loaded, plan.limits)
        device.step_boundary()  # with or without a trial behind it, it is a recipe of its own, which is found again
        if device.measured:
            plan = _measured(loaded, plan, sampler)
        loaded.pools.allocate(plan.limits.num_blocks, plan.limits.block_size, device.torch)
    except ValueError as error:
        raise ModelRefused(str(error)) from error
    except RuntimeError as error:  # torch has no narrower one for "out of memory" on every device
        size = plan.limits.num_blocks * loaded.block_bytes(plan.limits) / 2**30
        raise ModelRefused(
            f"no memory for KV pools of {size:.1f} GiB: lower kv_blocks or slots ({error})"
        ) from error
    ready = 0 if spec.deterministic else spec.ready_buckets or device.ready_buckets
    return _runner(loaded, plan, sampler, ready)


def _limits(loaded: Loaded, free: int, spec: LoadSpec | None = None) -> Limits:
    return choose_limits(
        spec or loaded.spec, loaded.info.max_position, loaded.pools.bytes_per_block, loaded.device, free
    )


def _plan(loaded: Loaded, limits: Limits, last: Start | None = None) -> Plan:
    """The best plan, or the last start's, whose recipes are kept, if it is hardly worse."""
    spec, costs = loaded.spec, costs_of(loaded.info, loaded.model, loaded.device)
    # Where texts must stay the same from one start to the next, traffic has no say.
    view = outlook(limits, costs, counted("" if spec.deterministic else spec.histogram))
    plan = choose(view, graphs_of(spec, loaded.device)).plan
    if last is None or last.limits != limits:
        return plan
    kept = Plan(limits, last.buckets, costs)
    return kept if padding(kept, view.traffic) <= padding(plan, view.traffic) + REPLAN else plan


def _measured(loaded: Loaded, plan: Plan, sampler: Sampler) -> Plan:
    """The plan of what there is room for; ModelRefused with the numbers if that is too little.

    What the last start measured is taken over, and its number of blocks, as long as they fit: a few bytes more or less
    must not change a shape.
    """
    free, folder = loaded.device.memory().free, loaded.spec.recipes
    device = ", ".join(loaded.device.info().values())
    last = last_start(folder, device)
    need = last.need if last else _trial(loaded, plan, sampler)
    budget = Budget(free, need, len(plan))
    size = loaded.block_bytes(plan.limits)
    if last and last.limits.num_blocks * size <= budget.left:
        limits = _limits(loaded, free, replace(loaded.spec, kv_blocks=last.limits.num_blocks))
    else:
        if loaded.spec.kv_blocks:
            budget.check(loaded.spec.kv_blocks, size)
        else:
            longest = plan.limits.blocks_of(loaded.spec.max_total_tokens or 1)
            budget.check(1 + longest, size, plan.limits.block_size)
        limits = _limits(loaded, budget.left)
    plan = _plan(loaded, limits, last)
    Start(limits, plan.buckets, need, device).save(folder)
    return plan


def _trial(loaded: Loaded, plan: Plan, sampler: Sampler) -> Need:
    """See models/room.py. ModelRefused if not even that fits."""
    loaded.pools.allocate(1, plan.limits.block_size, loaded.device.torch)
    runner = _runner(loaded, plan, sampler, ready=0)
    try:
        return runner.trial()
    except RuntimeError as error:  # torch has no narrower one for "out of memory" on every device
        raise ModelRefused(
            f"no memory for the largest steps beside the weights: set PREFILL_CHUNK, SLOTS or MAX_TOTAL_TOKENS lower, "
            f"or use more cards ({error})"
        ) from error
    finally:
        runner.close()


def _sampler(loaded: Loaded, limits: Limits) -> Sampler:
    exact = torch.promote_types(loaded.pools.dtype, torch.float32)
    info, spec = loaded.info, loaded.spec
    watermark = Watermark(spec.watermark_gamma, spec.watermark_delta) if info.watermark else None
    return Sampler(limits.slots, info.vocab_size, info.eos_ids, exact, loaded.device.torch, watermark)


def _runner(loaded: Loaded, plan: Plan, sampler: Sampler, ready: int) -> PagedRunner:
    limits, device = plan.limits, loaded.device
    forward = Forward(loaded.model, sampler.tokens, limits.block_size, limits.layout, device.kernels)
    parts = Parts(forward, loaded.pools, sampler, device)
    return PagedRunner(loaded.info, plan, parts, loaded.spec.depth or device.depth, ready)


def costs_of(info: ModelInfo, model: Any, device: Device) -> CostModel:
    """What its launches cost on this device, as far as that can be known before they run."""
    size = model.dtype.itemsize
    return CostModel(MACHINES[device.machine], shape_of(model.config.to_dict(), info.parameters, size))


def graphs_of(spec: LoadSpec, device: Device) -> int:
    """Most buckets: as told, else what the time for warm-up suffices for, else the usual number."""
    if spec.graphs or not spec.warm_up_seconds:
        return spec.graphs or DEFAULT_GRAPHS
    return affordable_graphs(spec.warm_up_seconds, MACHINES[device.machine].graph)
