"""`habana_frameworks.torch`: importing it makes the device "hpu" known to torch, in the mode that is set then."""

import os

from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from ..stand_in import kernels, ops
from ..stand_in.settings import LAST_LAZY, SETTINGS

if SETTINGS.lazy and SETTINGS.release > LAST_LAZY:
    raise AssertionError("Stock PyTorch version is not supported in Lazy mode: set PT_HPU_LAZY_MODE=0")
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
os.environ.setdefault("HABANA_PROFILE", "profile_api_light")
_LIBRARIES = kernels.register()

from . import hpu as hpu  # noqa: E402

_setup_privateuseone_for_python_backend("hpu", hpu)
_OPS = ops.define()

from . import core as core  # noqa: E402
from . import utils as utils  # noqa: E402
