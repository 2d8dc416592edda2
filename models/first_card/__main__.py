"""`python -m models.first_card CHECK`: one check, in a process of its own; what it saw as JSON on the last line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module

import torch

from models.devices import device_of
from models.errors import ModelRefused
from models.first_card.subject import Check, Seen, Subject
from models.step import LoadSpec

CHECKS: Mapping[str, str] = {
    "card": "small",
    "kernels": "small",
    "replay": "small",
    "fetch": "small",
    "decode": "small",
    "sealed": "small",
    "engine": "texts",
    "again": "texts",
    "reference": "texts",
}
"""Check → the module here that has it, which alone is imported: those of single operations need no transformers.

In their order: each depends on those before it. The second start of the engine finds the first one's recipes.
"""


def check_of(name: str) -> Check:
    """The check of that name."""
    check: Check = getattr(import_module(f"models.first_card.{CHECKS[name]}"), name)
    return check


def main(argv: Sequence[str] | None = None) -> int:
    """Run one; 0 whatever it saw, for that is on the last line."""
    parser = argparse.ArgumentParser("python -m models.first_card", description=__doc__)
    parser.add_argument("check", choices=CHECKS)
    for name, default in (("device", ""), ("model-id", "demo"), ("dtype", ""), ("recipes", "")):
        parser.add_argument(f"--{name}", default=default)
    given = parser.parse_args(argv)
    spec = LoadSpec(
        model_id=given.model_id, device=given.device, dtype=given.dtype, recipes=given.recipes, offline=True
    )
    try:
        with torch.inference_mode():
            seen = check_of(given.check)(Subject(device_of(given.device), spec))
    except ModelRefused as refused:
        seen = Seen(False, str(refused))
    print(json.dumps(asdict(seen)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
