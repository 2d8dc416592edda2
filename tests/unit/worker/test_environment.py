from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models import environment
from models.environment import recipes_folder
from models.step import LoadSpec
from worker.config import Config
from worker.launcher import child_environment
from worker.process import load_spec
from worker.seat import Seat

SPEC = LoadSpec(model_id="meta-llama/Llama-3.1-8B", device="hpu", recipes="/cache/llama")
FORK, STOCK = "2.7.1+hpu_1.22.0-740.git6b8d4de", "2.11.0"


def test_the_mode_is_what_this_torch_has() -> None:
    lazy, compiled = environment.hpu(SPEC, FORK, {}), environment.hpu(SPEC, STOCK, {})
    assert lazy["PT_HPU_LAZY_MODE"] == "1" and "FUSER_ENABLE_MULTI_THREADED_INVOCATIONS" not in lazy
    assert compiled["PT_HPU_LAZY_MODE"] == "0" and compiled["FUSER_ENABLE_MULTI_THREADED_INVOCATIONS"] == "1"


def test_what_the_operator_says_goes_first_where_it_says_something() -> None:
    given = {
        "PT_HPU_LAZY_MODE": "0",
        "PT_HPU_WEIGHT_SHARING": "1",
        "EXPERIMENTAL_WEIGHT_SHARING": "",
        "HOME": "/",
    }
    chosen = environment.hpu(SPEC, FORK, given)
    assert (chosen["PT_HPU_LAZY_MODE"], chosen["PT_HPU_WEIGHT_SHARING"]) == ("0", "1")
    assert chosen["EXPERIMENTAL_WEIGHT_SHARING"] == "0" and "HOME" not in chosen


def test_recipes_are_kept_where_the_spec_says() -> None:
    chosen = environment.hpu(SPEC, STOCK, {})
    assert chosen["PT_HPU_RECIPE_CACHE_CONFIG"] == "/cache/llama/rank,false,16384"
    assert "PT_HPU_RECIPE_CACHE_CONFIG" not in environment.hpu(replace(SPEC, recipes=""), STOCK, {})


def test_an_engine_finds_it_set_on_a_gaudi_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PT_HPU_LAZY_MODE", raising=False)
    assert child_environment(SPEC, {"HLS_MODULE_ID": "3"})["PT_HPU_LAZY_MODE"] == "0"
    assert child_environment(SPEC, {"HLS_MODULE_ID": "3"})["HLS_MODULE_ID"] == "3"
    assert "PT_HPU_LAZY_MODE" not in child_environment(replace(SPEC, device="cpu"), {})


@pytest.mark.parametrize(
    "change", [{"dtype": "float32"}, {"slots": 8}, {"model_id": "other/Llama-3.1-8B"}, {"revision": "v2"}]
)
def test_what_decides_the_shapes_decides_the_folder(change: dict[str, object]) -> None:
    root = Path("/cache")
    folder = recipes_folder(root, SPEC, "1.24.1")
    assert folder.parent == root and folder.name.startswith("Llama-3.1-8B-")
    assert recipes_folder(root, replace(SPEC, **change), "1.24.1") != folder  # type: ignore[arg-type]
    assert recipes_folder(root, SPEC, "1.23.0") != folder
    assert "," not in str(recipes_folder(root, replace(SPEC, model_id="./mine,tuned"), "1.24.1"))
    assert recipes_folder(root, replace(SPEC, token="hf_x", offline=True, histogram="/h"), "1.24.1") == folder


def test_a_worker_keeps_recipes_unless_told_not_to(tmp_path: Path) -> None:
    kept = load_spec(Config(device="hpu", recipe_cache=str(tmp_path)), Seat())
    assert Path(kept.recipes).parent == tmp_path
    assert load_spec(Config(device="hpu", recipe_cache="none"), Seat()).recipes == ""
    assert load_spec(Config(device="cpu", recipe_cache=str(tmp_path)), Seat()).recipes == ""
