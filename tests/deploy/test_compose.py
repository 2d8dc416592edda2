"""The deploy files say what the code says; and the tools that know their formats find nothing wrong with them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config as GatewayConfig
from sagrada.cards import GRACE
from tests.deploy.example import BY_COMPOSE, COMPOSE, of, render
from worker.config import Config as WorkerConfig

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
OURS = ("gateway", "worker", "worker-gaudi", "worker-cuda")
PROFILES = ("gaudi", "cuda", "monitoring", "flower")
DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
INTEL_S = {"torch", "numpy", "triton"}
"""What the Gaudi image must not pin: its base brings it."""
FIXED = {"PORT": 8080, "RECIPE_CACHE": "/recipes"}
"""What compose.yaml gives some services besides BY_COMPOSE."""


def test_the_example_has_every_setting_with_its_default() -> None:
    assert (ROOT / ".env.example").read_text() == render(), "python -m tests.deploy.example > .env.example"


@pytest.mark.parametrize("service", OURS)
def test_every_setting_is_passed_on_by_its_name(service: str) -> None:
    environment = SERVICES[service]["environment"]
    settings = of(GatewayConfig if service == "gateway" else WorkerConfig)
    for setting in settings:
        if setting.name not in BY_COMPOSE:
            given = environment.get(setting.name, "not at all")
            assert given in (None, FIXED.get(setting.name)), setting.name


def test_what_compose_reads_is_documented_with_its_default() -> None:
    known = {s.name: s.default for s in COMPOSE}
    settings = {s.name for config in (GatewayConfig, WorkerConfig) for s in of(config)}
    read = set(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", COMPOSE_FILE.read_text()))
    given = [
        (name, value)
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
    ]
    read |= {(name, "") for name, value in given if value is None}
    assert {name for name, _ in read} >= known.keys()
    for name, default in read:
        assert known.get(name) == default or (name in settings and not default), f"{name}:-{default}"


def test_stopping_takes_longer_than_draining() -> None:
    given = re.fullmatch(r"\$\{STOP_GRACE_PERIOD:-(\d+)s\}", SERVICES["worker"]["stop_grace_period"])
    assert given
    assert int(given[1]) > max(GatewayConfig().drain_timeout, WorkerConfig().drain_timeout) + GRACE


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("privileged") is None and service.get("network_mode") is None
    assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}
    assert service["logging"]["options"]["max-size"]
    assert service.get("cap_add", []) == (["SYS_NICE"] if name == "worker-gaudi" else [])


def test_redis_is_reached_from_nowhere_else() -> None:
    assert "ports" not in SERVICES["redis"] and SERVICES["redis"]["networks"] == ["store"]
    assert yaml.safe_load(COMPOSE_FILE.read_text())["networks"]["store"] == {"internal": True}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_no_image_runs_as_root(file: Path) -> None:
    last = re.findall(r"^USER (\S+)$", file.read_text(), re.MULTILINE)[-1]
    assert last in ("10001:10001", "999:999")


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints-gaudi.txt"])
def test_the_images_pins_are_within_the_project_s_bounds(constraints: str) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "deploy" / constraints).read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extra = ["gaudi"] if "gaudi" in constraints else ["cpu", "flower"]
    script = ROOT / "deploy" / "build" / "requirements.py"
    wanted = subprocess.run(
        [sys.executable, script, *extra], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line in wanted.stdout.splitlines():
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        exact = any(s.operator == "==" for s in requirement.specifier)
        if name not in pins:
            assert exact or ("gaudi" in constraints and name in INTEL_S), line
        else:
            assert requirement.specifier.contains(pins[name]), line
    assert "gaudi" not in constraints or not INTEL_S & pins.keys()


# With the formats' own tools, where they are installed


def tool(name: str) -> str:
    found = shutil.which(
        name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def passes(*command: str | Path) -> str:
    ran = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, f"{command}:\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_compose_yaml_follows_the_specification() -> None:
    passes(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_has_no_complaint(file: Path) -> None:
    passes(tool("hadolint"), file)


@pytest.mark.parametrize(
    "profiles", [(), *((p,) for p in PROFILES), PROFILES], ids=lambda p: "+".join(p) or "none"
)
def test_docker_compose_reads_every_profile(profiles: tuple[str, ...]) -> None:
    docker = tool("docker")
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker has no compose plugin")
    options = [word for profile in profiles for word in ("--profile", profile)]
    said = json.loads(passes(docker, "compose", *options, "config", "--format", "json"))
    assert said["services"]["worker"]["deploy"]["replicas"] == 1
    assert (said["services"].get("worker-gaudi", {}).get("runtime") == "habana") == ("gaudi" in profiles)


def test_prometheus_takes_its_configuration() -> None:
    passes(tool("promtool"), "check", "config", "deploy/prometheus/prometheus.yml")
