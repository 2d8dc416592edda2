"""Which device this is."""

from __future__ import annotations

from enum import IntEnum

from ...stand_in import SETTINGS


class synDeviceType(IntEnum):
    """Generations of Gaudi, by the driver's names."""

    synDeviceGaudi = 1
    synDeviceGaudi2 = 4
    synDeviceGaudi3 = 5


_TYPES = {
    "gaudi": synDeviceType.synDeviceGaudi,
    "gaudi2": synDeviceType.synDeviceGaudi2,
    "gaudi3": synDeviceType.synDeviceGaudi3,
}


def _get_device_type() -> synDeviceType:
    return _TYPES[SETTINGS.device_type]
