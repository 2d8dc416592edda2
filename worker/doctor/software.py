"""Versions, which of them go together, the image and the environment."""

from __future__ import annotations

from collections.abc import Iterator

from models.environment import GAUDI_PLUGIN, LAZY, has_lazy_mode
from worker.card import Kind
from worker.doctor.finding import Finding, error, ok, warning
from worker.doctor.machine import Machine, numbers

TORCH_OF: dict[tuple[int, ...], tuple[int, int]] = {
    (1, 18): (2, 4),
    (1, 19): (2, 5),
    (1, 20): (2, 6),
    (1, 21): (2, 6),
    (1, 22): (2, 7),
    (1, 23): (2, 9),
    (1, 24, 0): (2, 10),
    (1, 24, 1): (2, 11),
}
"""Intel Gaudi software → the torch that its plugin was built for, and accepts alone."""
TRANSFORMERS: dict[Kind, tuple[tuple[int, int], tuple[int, int]]] = {
    "hpu": ((4, 55), (4, 56)),
    "cuda": ((4, 55), (6, 0)),
    "cpu": ((4, 55), (6, 0)),
}
"""From which version, and before which; pyproject.toml says the same."""
CELERY = (5, 7)
"""Celery's and kombu's, on whose internals the pool and the transport build."""
EXTRA: dict[Kind, str] = {"hpu": "gaudi", "cuda": "cuda", "cpu": "cpu"}

GAUDI_IMAGE = "Use one of Intel's images for Ubuntu 24.04, whose torch pip must never replace."
DEVICE_PREFIXES = ("HABANA_", "HLS_", "PT_HPU_", "CUDA_", "NVIDIA_")


def versions(machine: Machine) -> Iterator[Finding]:
    """What is installed, and whether it is what a worker needs."""
    python = ".".join(map(str, machine.python))
    listed = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    yield ok("versions", f"Python {python}, {listed or 'nothing else'}.")
    for name in ("torch", "transformers"):
        if name not in machine.versions:
            yield error("versions", f"{name} is not installed.", _install(machine.kind, name))
    for name in ("celery", "kombu"):
        if machine.version(name)[:2] != CELERY:
            found = machine.versions.get(name, "not installed")
            yield error("versions", f"{name} is {found}, not 5.7.", "Install it: pip install sagrada.")


def _install(kind: Kind, name: str) -> str:
    if kind == "hpu" and name == "torch":
        return GAUDI_IMAGE
    return f"Install it: pip install 'sagrada[{EXTRA[kind]}]'."


def pairing(machine: Machine) -> Iterator[Finding]:
    """Whether the versions go together."""
    if machine.kind == "hpu":
        yield from _plugin(machine)
    torch = machine.versions.get("torch", "")
    if machine.kind == "cuda" and torch.endswith("+cpu"):
        yield error("pairing", f"torch {torch} is built without CUDA.", _install("cuda", "torch"))
    if found := machine.version("transformers"):
        least, below = TRANSFORMERS[machine.kind]
        if least <= found[:2] < below:
            yield ok("pairing", f"transformers {machine.versions['transformers']} is supported.")
        else:
            wanted = f">={_dotted(least)},<{_dotted(below)}"
            text = f"transformers {machine.versions['transformers']} is not supported on {machine.kind}."
            yield error("pairing", text, f"Install another: pip install 'transformers{wanted}'.")


def _plugin(machine: Machine) -> Iterator[Finding]:
    plugin, torch = machine.versions.get(GAUDI_PLUGIN, ""), machine.versions.get("torch", "")
    if not plugin:
        yield error("pairing", f"{GAUDI_PLUGIN} is not installed.", GAUDI_IMAGE)
        return
    if not torch:
        return
    wanted = TORCH_OF.get(numbers(plugin)[:3]) or TORCH_OF.get(numbers(plugin)[:2])
    if wanted is None:
        text = f"{GAUDI_PLUGIN} {plugin} is not known here: which torch it takes is not checked."
        yield warning("pairing", text, "Look it up in Intel's support matrix.")
    elif numbers(torch)[:2] != wanted:
        text = (
            f"{GAUDI_PLUGIN} {plugin} is built for torch {_dotted(wanted)}, and torch {torch} is installed."
        )
        yield error("pairing", text, f"Plugin and torch come together. {GAUDI_IMAGE}")
    else:
        yield ok("pairing", f"{GAUDI_PLUGIN} {plugin} and torch {torch} go together.")


def image(machine: Machine) -> Iterator[Finding]:
    """Where all this runs."""
    where = "in a container" if machine.container else "on the host"
    if machine.kind == "hpu" and (machine.system != "ubuntu 24.04" or machine.python != (3, 12)):
        python = ".".join(map(str, machine.python))
        yield warning("image", f"{machine.system} with Python {python}, {where}.", GAUDI_IMAGE)
    else:
        yield ok("image", f"{machine.system}, {where}.")


def environment(machine: Machine) -> Iterator[Finding]:
    """What the devices' software would read."""
    given = {n: v for n, v in sorted(machine.variables.items()) if n.startswith(DEVICE_PREFIXES)}
    listed = ", ".join(f"{name}={value}" for name, value in given.items())
    yield ok("environment", f"Set for devices: {listed or 'nothing'}.")
    if machine.kind == "hpu":
        yield from _lazy_mode(machine)
    if machine.kind == "hpu" and (module := given.get("HLS_MODULE_ID")):
        text = f"HLS_MODULE_ID={module} sends every engine that is started here to one card."
        yield warning("environment", text, "Unset it, and bind workers with CARD or --cards.")


def _lazy_mode(machine: Machine) -> Iterator[Finding]:
    """What PT_HPU_LAZY_MODE says; unset, the launcher chooses what this torch has."""
    mode, torch = machine.variables.get(LAZY, ""), machine.versions.get("torch", "")
    if mode not in ("", "0", "1"):
        remedy = "Unset it, or set it to 0 (torch.compile) or 1 (HPU Graphs)."
        yield error("environment", f"{LAZY} is {mode!r}.", remedy)
    elif mode == "1" and torch and not has_lazy_mode(torch):
        text = f"{LAZY}=1 needs Intel's own build of torch, and torch {torch} is none."
        yield error("environment", text, f"Unset it, or set {LAZY}=0.")
    elif torch:
        lazy = mode == "1" or (not mode and has_lazy_mode(torch))
        yield ok("environment", f"Engines will use {'HPU Graphs' if lazy else 'torch.compile'}.")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
