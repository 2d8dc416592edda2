"""1: the names that there are, and no others; no argument too many is swallowed."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

import habana_frameworks.torch as htorch
import habana_frameworks.torch.core as htcore
import pytest
import torch
from habana_frameworks.stand_in import SETTINGS

from models.cost import MACHINES
from models.devices.hpu import GENERATIONS

hpu: Any = torch.get_device_module("hpu")

MODULES = (
    "core", "hpu", "hpu.metrics", "hpu.random", "utils.internal", "utils.experimental", "internal.bridge_config",
    "distributed.hccl", "hpex.kernels", "hpex.normalization",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_the_package_tree_is_there(name: str) -> None:
    importlib.import_module(f"habana_frameworks.torch.{name}")


def test_the_plugin_is_installed_as_a_distribution() -> None:
    assert version("habana-torch-plugin").startswith("{}.{}.".format(*SETTINGS.release))


def test_torch_has_the_device_module() -> None:
    assert hpu is htorch.hpu
    assert hpu.is_available() and hpu.current_device() == 0 and hpu.device_count() == 8


@pytest.mark.parametrize(
    "name", ["empty_cache", "CUDAGraph", "max_memory_reserved", "graph_pool_handle", "ipc_collect"]
)
def test_what_habana_has_not_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(hpu, name)


def test_unknown_arguments_are_type_errors() -> None:
    with pytest.raises(TypeError):
        hpu.synchronize("hpu")
    with pytest.raises(TypeError):
        hpu.Stream(blocking=True)


def test_properties_and_capability_are_strings() -> None:
    assert isinstance(hpu.get_device_properties(), str) and isinstance(hpu.get_device_capability(), str)
    assert hpu.get_device_name() == "GAUDI2"


def test_the_device_type_is_the_drivers() -> None:
    from habana_frameworks.torch.utils.experimental import _get_device_type, synDeviceType

    assert _get_device_type() == synDeviceType.synDeviceGaudi2


def test_every_generation_has_its_row_of_costs() -> None:
    assert sorted(GENERATIONS.values()) == ["gaudi", "gaudi2", "gaudi3"]
    assert set(GENERATIONS.values()) <= MACHINES.keys()


def test_the_inference_environment_has_this_releases_names() -> None:
    old = {"hpu_set_inference_env", "hpu_set_env", "hpu_teardown_inference_env", "hpu_reset_env"}
    expected, strange = (old, {"hpu_inference_set_env"})
    if SETTINGS.release > (1, 22):
        expected, strange = strange, expected
    assert {"hpu_inference_initialize", "hpu_initialize", *expected} <= vars(htcore).keys()
    assert not strange & vars(htcore).keys()


def test_the_inference_environment_is_set_before_the_model_is_on_the_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter: Any = getattr(htcore, "hpu_inference_set_env", None) or htcore.hpu_set_inference_env
    monkeypatch.setattr(htcore, "_entered", False)
    held = torch.zeros(1, device="hpu")
    with pytest.raises(RuntimeError, match="before the model"):
        enter()
    monkeypatch.setattr(htcore, "_entered", True)
    enter()  # a second model
    del held


def test_a_model_is_initialised_on_the_card() -> None:
    with pytest.raises(RuntimeError, match="must be on hpu"):
        htcore.hpu_inference_initialize(torch.nn.Linear(2, 2), mark_only_scales_as_const=True)
    htcore.hpu_inference_initialize(torch.nn.Linear(2, 2).to("hpu"), mark_only_scales_as_const=True)
