"""`sagrada doctor` as a process: the report, the exit code, and what it says of a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from sagrada.embedded import free_port
from tests.support.cards import GAUDI_2, first_on_path, hl_smi
from worker.doctor.store import redis as look_at_redis

ROOT = Path(__file__).parents[3]


def doctor(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    quiet = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DEVICE")}
    command = [sys.executable, "-m", "sagrada", "doctor", *args]
    return subprocess.run(
        command, cwd=ROOT, env={**quiet, **env}, capture_output=True, text=True, timeout=120
    )


def test_a_cpu_that_can_serve_has_no_error(redis_url: str, tmp_path: Path) -> None:
    ran = doctor("--device", "cpu", REDIS_URL=redis_url, LOCK_DIR=str(tmp_path))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[-1].startswith("0 errors, ")
    checks = [line.split()[1] for line in lines[:-1]]
    assert set(checks) >= {
        "driver",
        "versions",
        "image",
        "environment",
        "cards",
        "shm",
        "limits",
        "pairing",
        "redis",
    }


@pytest.mark.full
def test_a_gaudi_without_its_software_is_an_error_in_json(tmp_path: Path) -> None:
    hl_smi(tmp_path, GAUDI_2)
    ran = doctor("--json", DEVICE="hpu", LOCK_DIR=str(tmp_path), PATH=first_on_path(tmp_path))
    report = json.loads(ran.stdout)
    assert ran.returncode == 1
    assert report["errors"] == sum(f["level"] == "error" for f in report["findings"]) >= 1
    assert [f["check"] for f in report["findings"]].count("cards") == 8
    assert any("habana-torch-plugin is not installed" in f["text"] for f in report["findings"])
    assert all(f["remedy"] for f in report["findings"] if f["level"] != "ok")
    assert not any(f["check"] == "redis" for f in report["findings"])


@pytest.mark.full
def test_a_setting_that_is_wrong_is_a_finding(tmp_path: Path) -> None:
    ran = doctor(SLOTS="none", LOCK_DIR=str(tmp_path))
    assert ran.returncode == 1
    assert "error    settings     SLOTS='none' is not usable" in ran.stdout


def test_what_is_said_of_redis(redis_url: str) -> None:
    with Redis.from_url(redis_url) as made:
        client: Any = made
        before = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
        try:
            client.config_set("maxmemory", 0)
            said = [(f.level, f.text.partition(":")[0]) for f in look_at_redis(redis_url)]
            assert ("warning", "maxmemory is not set") in said
            assert ("warning", "appendonly is off") in said
            client.config_set("maxmemory", 512 << 20)
            client.config_set("maxmemory-policy", "allkeys-lru")
            levels = {f.text: (f.level, f.remedy) for f in look_at_redis(redis_url)}
            (policy,) = [text for text in levels if text.startswith("maxmemory-policy is allkeys-lru")]
            assert levels[policy][0] == "warning" and "noeviction" in levels[policy][1]
            client.config_set("maxmemory-policy", "noeviction")
            assert any("maxmemory is 512 MiB" in f.text and f.level == "ok" for f in look_at_redis(redis_url))
        finally:
            for name, value in before.items():
                client.config_set(name, value)


def test_a_redis_that_is_away_or_refuses_is_an_error_without_its_password(redis_url: str) -> None:
    (away,) = look_at_redis(f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert away.level == "error" and "does not answer" in away.text
    with Redis.from_url(redis_url) as made:
        client: Any = made
        client.acl_setuser("mute", enabled=True, passwords=["+secret"], commands=["+ping"])
        try:
            (mute,) = look_at_redis(redis_url.replace("redis://", "redis://mute:secret@"))
            (wrong,) = look_at_redis(redis_url.replace("redis://", "redis://mute:guessed@"))
        finally:
            client.acl_deluser("mute")
    assert mute.level == "warning" and "tells this user no settings" in mute.text
    assert wrong.level == "error"
    assert not any("secret" in str(f) or "guessed" in str(f) for f in (away, mute, wrong))
