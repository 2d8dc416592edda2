"""Checks of single operations: seconds each, and no model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.captured import Compiled, Outputs, Programs
from models.first_card.subject import Seen, Subject
from models.kernels import PLAIN
from models.layouts import Flat, Pools, Scoring

CLOSE = 0.03
"""Difference from the plain form in float32, as a share of its largest number: bfloat16 has 8 bits."""


def card(subject: Subject) -> Seen:
    """It could be taken, or this would not run."""
    memory = subject.device.memory()
    said = ", ".join(f"{name} {value}" for name, value in subject.device.info().items() if value)
    gib = {"free, GiB": memory.free / 2**30, "in all, GiB": memory.total / 2**30}
    return Seen(memory.free > 0, f"{subject.device.name}: {said}", gib)


def kernels(subject: Subject) -> Seen:
    """Each of the device's kernels computes what its plain form does."""
    device, errors = subject.device, dict[str, float]()
    for name, inputs in _inputs().items():
        rounded = [
            x.to(device.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs
        ]
        wide = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in rounded]
        there = [x.to(device.torch) if isinstance(x, Tensor) else x for x in rounded]
        expected = getattr(PLAIN, name)(*wide)
        got = getattr(device.kernels, name)(*there).float().cpu()
        errors[name] = float((got - expected).abs().max() / expected.abs().max())
    worst = max(errors, key=errors.__getitem__)
    return Seen(
        errors[worst] <= CLOSE, f"{worst} differs most, by {errors[worst]:.2%} of the largest number", errors
    )


def _inputs() -> Mapping[str, tuple[Tensor | float, ...]]:
    torch.manual_seed(0)
    mask = torch.where(torch.rand(1, 1, 128, 256) < 0.3, -torch.inf, 0.0)
    mask[..., 0] = 0
    angles = torch.randn(1, 128, 64).repeat(1, 1, 2)
    weights, index = torch.rand(128, 8).softmax(-1).topk(2)
    return {
        "attention": (
            torch.randn(1, 8, 128, 128),
            torch.randn(1, 2, 256, 128),
            torch.randn(1, 2, 256, 128),
            mask,
            128**-0.5,
        ),
        "rms_norm": (torch.randn(1, 128, 512), torch.randn(512), 1e-6),
        "rotate": (torch.randn(1, 8, 128, 128), angles.cos(), angles.sin()),
        "experts": (
            torch.randn(128, 256),
            index,
            weights,
            torch.randn(8, 256, 256) / 16,
            torch.randn(8, 256, 128) / 16,
        ),
    }


def replay(subject: Subject) -> Seen:
    """A program that writes a pool writes it again in every replay, from buffers that were filled anew."""
    device = subject.device
    pool = torch.zeros(64, 2, 16, device=device.torch)
    expected = torch.zeros(64, 2, 16)

    def write(slots: Tensor, new: Tensor) -> Outputs:
        pool.index_copy_(0, slots, new)
        return (pool.index_select(0, slots) * 2,)

    programs: Programs[str] = Programs(device.strategy())
    inputs = {"slots": torch.arange(4), "new": torch.zeros(4, 2, 16)}
    programs.build("write", write, {name: value.to(device.torch) for name, value in inputs.items()})
    for turn in range(1, 4):
        slots, new = torch.arange(4) * turn + turn, torch.randn(4, 2, 16)
        expected[slots] = new
        (out,) = programs["write"].run(slots=slots, new=new)
        if not torch.equal(device.fetch(out).result(), new * 2):
            return Seen(False, f"replay {turn} gave something else")
    good = torch.equal(pool.cpu()[4:], expected[4:])  # the first four are scratch: a capture may write there
    return Seen(good, "the pool holds what was written" if good else "the pool holds something else")


def fetch(subject: Subject) -> Seen:
    """What is copied to the host is what it was when the copy was asked for, though the next replay overwrites it."""
    device = subject.device
    programs: Programs[str] = Programs(device.strategy())
    programs.build("double", lambda x: (x * 2,), {"x": torch.zeros(1024, device=device.torch)})
    fetched = []
    for turn in range(8):
        (out,) = programs["double"].run(x=torch.full((1024,), float(turn)))
        fetched.append(device.fetch(out))
        device.step_boundary()
    least, most = ([float(end(each.result())) for each in fetched] for end in (torch.amin, torch.amax))
    good = least == most == [2.0 * turn for turn in range(8)]
    return Seen(good, "eight copies in flight are right" if good else f"copies hold {least} to {most}")


def decode(subject: Subject) -> Seen:
    """Flat paged attention equals the host's, and other values compile nothing and fall back nowhere."""
    device, size, kv_heads = subject.device, 128, 2
    torch.manual_seed(0)
    pools = [torch.randn(9 * size, kv_heads, 64) for _ in range(2)]
    query = torch.randn(4, 8, 1, 64)
    blocks, owners = torch.tensor([1, 2, 3, 4, 5, 6, 0, 0]), torch.tensor([0, 0, 1, 2, 2, 3, 4, 4])
    firsts = torch.tensor([0, size, 0, 0, size, 0, 0, 0])

    def attend(where: list[Tensor]) -> Outputs:
        keys, values, query, positions, blocks, owners, firsts = where
        view = Flat(positions, blocks, owners, firsts, size)
        return (view.attend(query, Pools(keys, values, 64), Scoring(64**-0.5)),)

    there = [pool.to(device.torch) for pool in pools]
    programs: Programs[str] = Programs(device.strategy())
    steps = [torch.tensor([200, 100, 130, 5]), torch.tensor([255, 127, 140, 60])]
    fixed = {"query": query, "positions": steps[0], "blocks": blocks, "owners": owners, "firsts": firsts}
    programs.build(
        "flat",
        lambda **inputs: attend([*there, *inputs.values()]),
        {name: value.to(device.torch) for name, value in fixed.items()},
    )
    compiled, worst = 0, 0.0
    for turn, positions in enumerate([steps[0], *steps]):
        if turn == 2:
            compiled = device.compilations()
        (expected,) = attend([*pools, query, positions, blocks, owners, firsts])
        (out,) = programs["flat"].run(**(fixed | {"positions": positions}))
        worst = max(worst, float((device.fetch(out).result() - expected).abs().max()))
    compiled = device.compilations() - compiled
    text = f"differs by at most {worst:.2g}; other values compiled {compiled} programs"
    return Seen(worst < 1e-2 and not compiled, text, {"largest difference": worst, "compiled": compiled})


def sealed(subject: Subject) -> Seen:
    """After the seal an unplanned shape is an error, where the strategy compiles by shape."""
    device = subject.device
    strategy = device.strategy()
    if not isinstance(strategy, Compiled):
        return Seen(True, "programs are recorded, not compiled by shape: nothing to seal")

    def double(x: Tensor) -> Outputs:
        return (x * 2,)

    buffers = {"x": torch.zeros(4, device=device.torch)}
    call = strategy.capture(double, buffers)
    call()
    device.seal()
    call()
    buffers["x"] = torch.zeros(5, device=device.torch)
    try:
        strategy.capture(double, buffers)()
    except Exception as error:  # which one it is, is Dynamo's affair
        return Seen(True, f"an unplanned shape raises {type(error).__name__}")
    finally:
        torch.compiler.set_stance("default")
    return Seen(False, "an unplanned shape was compiled")
