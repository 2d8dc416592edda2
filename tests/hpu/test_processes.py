"""2, 10 and 11: what only a process of its own can show. Its mode, its card, its children, its peers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sagrada.embedded import free_port
from tests.hpu.profiles import COMPILE, LAZY, PROFILES, ROOT, Profile

TAKE = """
import os, sys
from habana_frameworks.stand_in.card import SEAT
SEAT.touch()
print(SEAT.module, flush=True)
"""
HOLD = TAKE + "sys.stdin.read()"
TOUCH = """
import os, sys, torch
import habana_frameworks.torch as htorch
torch.ones(1, device="hpu")
"""
BUSY = "Device acquire failed"


def last(ran: subprocess.CompletedProcess[str]) -> str:
    """The last line that it printed, or that its failure did."""
    return (ran.stdout or ran.stderr).strip().splitlines()[-1]


class TestMode:
    @pytest.mark.parametrize(
        ("profile", "mode", "lazy"),
        [
            (LAZY, None, True),
            (LAZY, "0", False),
            (LAZY, "1", True),
            (COMPILE, None, False),
            (COMPILE, "0", False),
        ],
    )
    def test_the_old_release_is_lazy_unless_told_otherwise(
        self, profile: Profile, mode: str | None, lazy: bool
    ) -> None:
        change = ".pop('PT_HPU_LAZY_MODE')" if mode is None else f"['PT_HPU_LAZY_MODE'] = '{mode}'"
        asked = f"import os; os.environ{change}; from habana_frameworks.stand_in import SETTINGS; print(SETTINGS.lazy)"
        assert last(profile.run("-c", asked)) == str(lazy)

    def test_the_new_release_has_no_lazy_mode(self) -> None:
        ran = COMPILE.run("-c", "import habana_frameworks.torch", PT_HPU_LAZY_MODE="1")
        assert "not supported in Lazy mode" in last(ran)

    @pytest.mark.parametrize("profile", PROFILES, ids=str)
    def test_a_mode_that_is_set_too_late_is_an_error(self, profile: Profile) -> None:
        late = "os.environ['PT_HPU_LAZY_MODE'] = '{}'; torch.zeros(1, device='hpu').cpu()"
        ran = profile.run("-c", TOUCH + late.format(int(not profile.lazy)))
        assert "read once, set it before" in last(subprocess.CompletedProcess([], 1, "", ran.stderr))

    @pytest.mark.parametrize("profile", PROFILES, ids=str)
    def test_torch_loads_the_plugin_by_itself_but_in_lazy_mode(self, profile: Profile) -> None:
        asked = "import torch, sys; print('habana_frameworks.torch' in sys.modules)"
        assert last(profile.run("-c", asked)) == str(not profile.lazy)
        assert last(profile.run("-c", asked, PT_HPU_AUTOLOAD=str(int(profile.lazy)))) == str(profile.lazy)

    @pytest.mark.parametrize("profile", PROFILES, ids=str)
    def test_importing_it_sets_what_habana_sets(self, profile: Profile) -> None:
        names = ("TORCHINDUCTOR_COMPILE_THREADS", "HABANA_PROFILE")
        asked = (
            f"import habana_frameworks.torch, os, json; print(json.dumps([os.environ[n] for n in {names}]))"
        )
        assert json.loads(last(profile.run("-c", asked))) == ["1", "profile_api_light"]


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that has module 0."""
    environment = COMPILE.environment(HPU_STAND_IN_LOCKS=str(tmp_path), HLS_MODULE_ID="0")
    return subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class TestCard:
    def take(self, folder: Path, **environment: str) -> str:
        return last(COMPILE.run("-c", TAKE, HPU_STAND_IN_LOCKS=str(folder), **environment))

    def test_a_named_module_is_taken_and_any_free_one_otherwise(self, tmp_path: Path) -> None:
        assert self.take(tmp_path) == "0"
        assert self.take(tmp_path, HLS_MODULE_ID="5") == "5"
        assert self.take(tmp_path, HABANA_VISIBLE_MODULES="3,4") == "3"

    def test_a_module_that_is_not_there_or_not_visible_is_replaced_or_not(self, tmp_path: Path) -> None:
        assert self.take(tmp_path, HLS_MODULE_ID="9") == "0"  # silently
        assert BUSY in self.take(tmp_path, HLS_MODULE_ID="9", HABANA_VISIBLE_MODULES="9")
        assert BUSY in self.take(tmp_path, HLS_MODULE_ID="1", HABANA_VISIBLE_MODULES="2")

    def test_a_card_that_is_taken_is_replaced_only_if_nobody_said_which_are_visible(
        self, tmp_path: Path, holder: subprocess.Popen[str]
    ) -> None:
        with holder:
            assert holder.stdout is not None and holder.stdout.readline() == "0\n"
            assert self.take(tmp_path, HLS_MODULE_ID="0") == "1"
            assert BUSY in self.take(tmp_path, HLS_MODULE_ID="0", HABANA_VISIBLE_MODULES="0")
            assert BUSY in self.take(tmp_path, HLS_MODULE_ID="0", WORLD_SIZE="9")
            assert BUSY in self.take(tmp_path, HPU_STAND_IN_CARDS="1")
            holder.kill()
        assert self.take(tmp_path, HLS_MODULE_ID="0", HABANA_VISIBLE_MODULES="0") == "0"

    def test_a_child_that_was_forked_afterwards_cannot_use_it(self) -> None:
        fork = """
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    SEAT.touch()
except RuntimeError as error:
    os._exit(7 if "before the fork" in str(error) else 1)
os._exit(0)
"""
        assert COMPILE.run("-c", TAKE + fork).returncode == 7

    def test_a_binding_that_changes_afterwards_is_an_error(self) -> None:
        ran = COMPILE.run("-c", TOUCH + "os.environ['HLS_MODULE_ID'] = '1'; torch.ones(1).to('hpu')")
        assert "HLS_MODULE_ID has changed" in ran.stderr

    def test_the_generation_is_what_the_environment_says(self) -> None:
        asked = """
import torch, habana_frameworks.torch
x = torch.tensor([300.0, 1e4]).to("hpu")
print(torch.ops.hpu.cast_to_fp8_v2(x, None, False, False, torch.float8_e4m3fn)[0].float().tolist())
"""
        assert last(COMPILE.run("-c", asked, HPU_STAND_IN_DEVICE="gaudi3")) == "[288.0, 448.0]"
        assert "does not support this device" in last(COMPILE.run("-c", asked, HPU_STAND_IN_DEVICE="gaudi"))


PEER = """
import json, os, torch
import torch.distributed as dist
import habana_frameworks.torch as htorch
from habana_frameworks.torch.distributed import hccl

def collectives(rank):
    x = torch.full((2,), float(rank + 1), device="hpu")
    dist.all_reduce(x)
    both = torch.empty(2, device="hpu")
    dist.group.WORLD._allgather_base(both, torch.full((1,), float(rank), device="hpu")).wait()
    sent = torch.full((1,), float(rank), device="hpu")
    dist.broadcast(sent, 1)
    dist.barrier()
    return x.tolist() + both.tolist() + sent.tolist()

def captured():
    x, graph = torch.ones(1, device="hpu"), htorch.hpu.HPUGraph()
    try:
        with htorch.hpu.graph(graph):
            y = x * 1
            dist.all_reduce(y)
            y = y + 1
    except RuntimeError as error:
        return "collective that is not lazy" in str(error)
    x.fill_(4)
    graph.replay()
    return y.tolist()

def compiled():
    def function(x):
        y = x * 1
        dist.all_reduce(y)
        return y + 1
    call = torch.compile(function, backend="hpu_backend", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        return call(torch.full((1,), 4.0, device="hpu")).tolist()

size, rank, local = hccl.initialize_distributed_hpu()
dist.init_process_group("hccl", rank=rank, world_size=size)
out = collectives(rank), captured() if htorch.utils.internal.is_lazy() else compiled(), os.environ["HLS_MODULE_ID"]
print(json.dumps(out))
dist.destroy_process_group()
"""


def peers(profile: Profile, folder: Path, **more: str) -> list[list[object]]:
    """What two processes print that are each other's peers."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", **more}
    running = []
    for rank in map(str, range(2)):
        own = {"RANK": rank, "LOCAL_RANK": rank, "HPU_STAND_IN_LOCKS": str(folder)}
        command = [sys.executable, "-c", PEER]
        environment = profile.environment(**shared, **own)
        running.append(
            subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        )
    return [json.loads(each.communicate(timeout=120)[0].splitlines()[-1]) for each in running]


class TestCollectives:
    @pytest.mark.parametrize("profile", PROFILES, ids=str)
    def test_two_cards_are_added_gathered_and_told_in_eager_and_captured_programs(
        self, profile: Profile, tmp_path: Path
    ) -> None:
        told = peers(profile, tmp_path, PT_HPU_ENABLE_LAZY_COLLECTIVES="true")
        assert told == [[[3, 3, 0, 1, 1], [9], module] for module in ("0", "1")]

    def test_lazy_mode_captures_none_unless_it_is_told_to(self, tmp_path: Path) -> None:
        told = peers(LAZY, tmp_path, HABANA_VISIBLE_MODULES="4,5")
        assert told == [[[3, 3, 0, 1, 1], True, module] for module in ("4", "5")]


COMPILE_ONE = """
import torch
import habana_frameworks.torch.core as htcore
from habana_frameworks.torch.hpu.metrics import metric_global
from habana_frameworks.torch.utils.internal import is_lazy
from habana_frameworks.stand_in import LEDGER
enter = getattr(htcore, "hpu_set_inference_env", None) or htcore.hpu_inference_set_env
double = lambda x: x * 2
if not is_lazy():
    double = torch.compile(double, backend="hpu_backend", fullgraph=True)
{}
double(torch.ones(3, device="hpu"))
htcore.mark_step()
print(dict(metric_global("graph_compilation").stats())["TotalNumber"], LEDGER.from_disk)
"""


@pytest.mark.full
@pytest.mark.parametrize("profile", PROFILES, ids=str)
class TestRecipes:
    def compiled(self, profile: Profile, config: str, before: str = "", **environment: str) -> str:
        """How many graphs one process has compiled and found."""
        more = {"PT_HPU_RECIPE_CACHE_CONFIG": config, **environment}
        return last(profile.run("-c", COMPILE_ONE.format(before), **more))

    def test_the_next_process_finds_them_unless_it_is_to_empty_the_folder(
        self, profile: Profile, tmp_path: Path
    ) -> None:
        folder = str(tmp_path / "kept")
        assert self.compiled(profile, f"{folder},false,1024") == "1 0"
        assert self.compiled(profile, folder) == "0 1"
        assert self.compiled(profile, folder, HPU_STAND_IN_DEVICE="gaudi3") == "1 0"
        assert self.compiled(profile, f"{folder},true,1024") == "1 0"
        assert self.compiled(profile, "") == "1 0"

    def test_for_inference_each_rank_has_a_folder(self, profile: Profile, tmp_path: Path) -> None:
        folder = str(tmp_path / "kept")
        assert self.compiled(profile, folder, "enter()", RANK="3") == "1 0"
        assert [path.name for path in tmp_path.iterdir()] == ["kept3"]
        assert self.compiled(profile, folder, "enter()") == "1 0"

    @pytest.mark.parametrize("config", ["{},maybe", "{},false,much", "{},false,1,false,1"])
    def test_what_cannot_be_read_is_an_error(self, profile: Profile, config: str, tmp_path: Path) -> None:
        assert "PT_HPU_RECIPE_CACHE_CONFIG" in self.compiled(profile, config.format(tmp_path))

    def test_only_newer_releases_take_a_fourth_field(self, profile: Profile, tmp_path: Path) -> None:
        said = self.compiled(profile, f"{tmp_path},false,1024,false")
        assert ("1 to 3 fields" in said) if profile is LAZY else said == "1 0"
