"""Which device this is."""

from __future__ import annotations

from enum import IntEnum

from ...stand_in import SETTINGS


class synDeviceType(IntEnum):  # noqa: N801  Habana's name
    """Generations of Gaudi, by the driver's names."""

    synDeviceGaudi = 1  # noqa: N815
    synDeviceGaudi2 = 4  # noqa: N815
    synDeviceGaudi3 = 5  # noqa: N815


_TYPES = {
    "gaudi": synDeviceType.synDeviceGaudi,
    "gaudi2": synDeviceType.synDeviceGaudi2,
    "gaudi3": synDeviceType.synDeviceGaudi3,
}


def _get_device_type() -> synDeviceType:
    return _TYPES[SETTINGS.device_type]
