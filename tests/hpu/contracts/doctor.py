"""`sagrada doctor` as in an image of the profile's release: it believes to see that image's torch and transformers.

`python -m tests.hpu.contracts.doctor TORCH OPTIONS...` on a machine of tests/hpu/profiles.py.
"""

from __future__ import annotations

import sys

from worker import discovery, launcher
from worker.doctor import first_card, machine, run


def main(torch: str, *options: str) -> int:
    """The command's exit code."""
    image = {"torch": torch, "transformers": "4.55.4"}

    def installed(distribution: str) -> str:
        return image.get(distribution) or discovery.installed(distribution)

    for reader in (launcher, machine):
        reader.installed = installed  # type: ignore[attr-defined]  # imported there by name
    first_card.PROGRAM = "tests.hpu.contracts.checks"
    return run.main(options)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
