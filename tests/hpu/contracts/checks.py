"""`python -m models.first_card`, beside any torchvision.

`python -m tests.hpu.contracts.checks CHECK OPTIONS...` on a machine of tests/hpu/profiles.py.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from tests.support import torchvision

if __name__ == "__main__":
    if find_spec("torchvision"):
        torchvision.bear()
    from models.first_card.__main__ import main

    sys.exit(main())
