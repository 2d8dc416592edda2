"""Children that are restarted, stopped and never orphaned; the lock that holds a data folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sagrada import child as child_module
from sagrada.child import Child
from sagrada.config import UpConfig
from sagrada.lock import DataDirInUse, DataDirLock
from sagrada.process import finish, kill, spawn, stop
from tests.support.processes import alive, until

ROOT = Path(__file__).parents[3]
FOREVER = ["sleep", "1000"]


def test_asking_is_enough_for_one_who_listens() -> None:
    process = spawn(FOREVER)
    assert stop(process, 20)
    assert process.returncode == -signal.SIGTERM


def test_one_who_does_not_listen_is_killed_with_all_it_started(tmp_path: Path) -> None:
    script = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid; while :; do sleep 0.1; done"
    process = spawn(["sh", "-c", script])
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    assert not stop(process, 0.1)
    grandchild = int((tmp_path / "pid").read_text())
    until(lambda: not alive(grandchild))
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told by Linux alone")
def test_a_child_does_not_outlive_a_killed_parent() -> None:
    code = f"from sagrada.process import spawn; p = spawn({FOREVER!r}); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        until(lambda: not alive(pid))


def test_a_child_leads_its_own_session() -> None:
    process = spawn(FOREVER)
    try:
        assert os.getsid(process.pid) == process.pid
    finally:
        kill(process)
    assert finish(process, 0)


def test_a_dead_child_is_started_again_after_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "FIRST_PAUSE", 0.01)
    child = Child("worker-1", ["sh", "-c", "echo hello $NAME; exit 3"], {"NAME": "you"}, tmp_path / "log")
    child.start()
    for restarts in range(1, 3):
        assert until(child.died) == 3
        assert child.died() is None
        until(child.revive)
        assert child.restarts == restarts
    assert child.finish(20)
    assert child.last_words() == "\n".join(["hello you"] * 3)


def test_pauses_double_up_to_a_bound(tmp_path: Path) -> None:
    child = Child("worker-1", ["true"], {}, tmp_path / "log")
    pauses = []
    for _ in range(9):
        child.start()
        until(lambda: child.died() is not None)
        pauses.append(child.pause)
        assert not child.revive()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_data_folder_has_one_holder(tmp_path: Path) -> None:
    first = DataDirLock(tmp_path / "data")
    with pytest.raises(DataDirInUse, match=rf"process {os.getpid()}\) holds .*--data-dir"):
        DataDirLock(tmp_path / "data", patience=0.0)
    first.release()
    DataDirLock(tmp_path / "data", patience=0.0).release()


def test_a_data_folder_is_held_until_the_last_heir_has_ended(tmp_path: Path) -> None:
    lock = DataDirLock(tmp_path)
    server = spawn(FOREVER, keep_open=(lock.fd,))
    lock.release()
    with pytest.raises(DataDirInUse):
        DataDirLock(tmp_path, patience=0.0)
    kill(server)
    DataDirLock(tmp_path, patience=0.0).release()


def test_a_child_gets_what_was_chosen_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUM_SHARD", "4")
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_person")
    monkeypatch.delenv("DTYPE", raising=False)
    config = UpConfig(
        host="0.0.0.0", port=81, model_id="demo", revision=None, device="cpu", dtype=None, workers=2, slots=8,
        redis_url=None, data_dir=tmp_path, drain_timeout=3.0, lease_seconds=None, api_key="of the gateway",
    )  # fmt: skip
    env = config.environment("worker", "redis://127.0.0.1:1/0")
    chosen = {"HOST": "0.0.0.0", "PORT": "81", "MODEL_ID": "demo", "DEVICE": "cpu", "SLOTS": "8"}
    chosen |= {"REDIS_URL": "redis://127.0.0.1:1/0", "DRAIN_TIMEOUT": "3.0", "NUM_SHARD": "4"}
    assert chosen.items() <= env.items()
    assert not {"DTYPE", "REVISION", "WORKERS", "LEASE_SECONDS"} & (env.keys() - os.environ.keys())
    assert config.url == "http://127.0.0.1:81"

    gateways = config.environment("gateway", "redis://127.0.0.1:1/0")
    assert (env.get("API_KEY"), env.get("HF_TOKEN")) == (None, "hf_of_a_person")
    assert (gateways.get("API_KEY"), gateways.get("HF_TOKEN")) == ("of the gateway", None)
