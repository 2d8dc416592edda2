"""`python -m models.first_card`, beside any torchvision, on a stand-in with one fault if HPU_STAND_IN_FAULT names it.

`python -m tests.hpu.contracts.checks CHECK OPTIONS...` on a machine of tests/hpu/profiles.py.
"""

from __future__ import annotations

import os
import sys

from tests.hpu.contracts.faults import FAULTS
from tests.support import torchvision

if __name__ == "__main__":
    torchvision.bear()
    if name := os.environ.get("HPU_STAND_IN_FAULT"):
        FAULTS[name].break_it()
    from models.first_card.__main__ import main

    sys.exit(main())
