"""Without torch there is nothing to stand in for, without optimum-habana and torchvision nothing to compare with."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
elif find_spec("optimum") is None or find_spec("torchvision") is None:
    collect_ignore_glob = ["test_optimum_habana.py"]
else:
    from tests.support import torchvision

    torchvision.bear()
