"""Every panel of every dashboard, and every alert, asks what a live Prometheus that scrapes a live fleet can answer."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sagrada.embedded import EmbeddedServer, free_port
from tests.support.fleet import Fleet
from tests.support.processes import until

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
VARIABLES = {
    "$service": "gateway",
    "$model": ".*",
    "$__rate_interval": "20s",
    "$__interval": "5s",
    "$__range": "60s",
}
"""What Grafana puts into a query."""


def expressions(node: Any) -> Iterator[str]:
    """The queries of all panels, and of all variables."""
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str) and node["expr"]:
            yield node["expr"]
        for value in node.values():
            yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def filled(expression: str) -> str:
    """The query as Grafana sends it; windows as short as this test is."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value).replace("${" + name[1:] + "}", value)
    return re.sub(r"\[\d+[smhd]\]", "[20s]", expression)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one that has seen a fleet at work, by our own configuration but for where the gateway is."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    server = EmbeddedServer(folder / "redis", aof=False)
    server.start()
    with Fleet(server.url, folder, model="scripted", env={"SERVED_MODEL_NAME": "scripted"}) as fleet:
        fleet.ready()
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / "alerts.yml")]
        ours = config["scrape_configs"][0]
        ours["static_configs"] = [{"targets": [fleet.url.removeprefix("http://")]}]
        config["scrape_configs"] = [ours]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        url = f"http://127.0.0.1:{free_port()}"
        where = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
        with (folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(
                [program, *where, f"--web.listen-address={url.removeprefix('http://')}"],
                stdout=log,
                stderr=log,
            )
        try:
            until(
                lambda: query(url, 'up{job="sagrada"} == 1'),
                60,
                "a scrape",
                despite=(httpx.HTTPError, ValueError),
            )
            for _ in range(6):
                work(fleet)
            until(lambda: query(url, "count_over_time(up[20s]) > 8"), 60, "enough scrapes")
            yield url
        finally:
            process.terminate()
            process.wait(30)
    server.stop()


def work(fleet: Fleet) -> None:
    """One request of each kind that has figures of its own."""
    body = {"inputs": "figures", "parameters": {"max_new_tokens": 20}}
    assert httpx.post(f"{fleet.url}/generate", json=body, timeout=60).status_code == 200
    assert httpx.post(f"{fleet.url}/jobs?wait=30", json=body, timeout=60).json()["status"] == "completed"
    assert httpx.post(f"{fleet.url}/generate", json={"inputs": ""}, timeout=60).status_code == 422


def query(url: str, expression: str) -> list[Any]:
    """What Prometheus answers; AssertionError with its complaint."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=30)
    assert answer.json()["status"] == "success", f"{expression}: {answer.text}"
    return list(answer.json()["data"]["result"])


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_every_panel_asks_what_can_be_answered(file: Path, prometheus: str) -> None:
    asked = sorted(set(expressions(json.loads(file.read_text()))))
    assert asked
    for expression in asked:
        query(prometheus, filled(expression))


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_no_panel_asks_for_a_metric_that_nobody_tells(file: Path, prometheus: str) -> None:
    told = {series["__name__"] for series in series_of(prometheus)}
    named = {
        name
        for expression in expressions(json.loads(file.read_text()))
        for name in re.findall(r"\b(?:tgi|sagrada)_\w+", expression)
    }
    assert named - told == set(), sorted(named - told)


def series_of(url: str) -> list[dict[str, str]]:
    answer = httpx.get(f"{url}/api/v1/series", params={"match[]": '{job="sagrada"}'}, timeout=30)
    return list(answer.json()["data"])


def test_the_alerts_are_read(prometheus: str) -> None:
    groups = httpx.get(f"{prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
    files = list((DEPLOY / "prometheus").glob("alerts.yml"))
    assert bool(groups) == bool(files)
    assert all(rule["health"] in ("ok", "unknown") for group in groups for rule in group["rules"]), groups
