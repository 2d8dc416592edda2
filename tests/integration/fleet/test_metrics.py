"""/metrics of a fleet whose processes come and go: right from whichever gateway, and nothing that ever falls."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet import Fleet
from tests.support.processes import children, until
from tests.support.promql import grouped_by, selectors
from tests.support.servers import serving
from wire.events import Token
from wire.ledger import Ledger
from wire.metrics import DURATIONS, METRICS

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


DEPLOY = Path(__file__).parents[3] / "deploy"
OURS = DEPLOY / "grafana" / "sagrada.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
NAMES = {metric.name for metric in METRICS}

PREFILL, DECODE = {"method": "prefill"}, {"method": "decode"}
TGI_HISTOGRAMS: tuple[tuple[str, dict[str, str]], ...] = (
    ("tgi_request_duration", {}),
    ("tgi_request_queue_duration", {}),
    ("tgi_request_mean_time_per_token_duration", {}),
    ("tgi_request_input_length", {}),
    ("tgi_request_generated_tokens", {}),
    ("tgi_request_skipped_tokens", {}),
    ("tgi_batch_inference_duration", PREFILL),
    ("tgi_batch_inference_duration", DECODE),
    ("tgi_batch_forward_duration", DECODE),
    ("tgi_batch_decode_duration", DECODE),
    ("tgi_batch_filter_duration", DECODE),
    ("tgi_batch_concat_duration", DECODE),
)
"""What TGI's own dashboard draws quantiles and heat maps of, by name and labels."""
TGI_NUMBERS = {
    "tgi_request_count": (),
    "tgi_request_success": (),
    "tgi_request_failure": ("err",),
    "tgi_queue_size": (),
    "tgi_batch_current_size": (),
    "tgi_batch_current_max_tokens": (),
    "tgi_batch_concat": ("reason",),
}
"""What it counts and adds up, and by which labels."""


def scrape(url: str) -> Series:
    """Every sample by name and labels; the text is what Prometheus can read, each series is there once."""
    answer = httpx.get(url + "/metrics", timeout=30)
    assert answer.status_code == 200
    found: Series = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family.name
        for sample in family.samples:
            name = sample.name.removesuffix("_total")  # which the parser gives to counters that have none
            key = name if name in NAMES else sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def total(series: Series, name: str, **labels: str) -> float:
    """The sum of a metric's series with these labels; AssertionError if there are none."""
    found = [v for (n, of), v in series.items() if n == name and labels.items() <= dict(of).items()]
    assert found, (name, labels)
    return sum(found)


def counters(series: Series) -> Series:
    """What may never fall."""
    names = NAMES | {f"{name}_{part}" for name in NAMES for part in ("bucket", "sum", "count")}
    return {key: value for key, value in series.items() if key[0] in names}


class Scraper:
    """Looks at all gateways again and again."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.last = fleet, Series()

    def look(self) -> Series:
        """One look at each gateway; AssertionError for a counter that has fallen, or is gone."""
        for url in self.fleet.addresses:
            now = counters(scrape(url))
            fallen = {
                key: (value, now.get(key)) for key, value in self.last.items() if now.get(key, -1) < value
            }
            assert not fallen, fallen
            self.last = now
        return self.last

    def until(self, name: str, value: float, **labels: str) -> None:
        """Until a metric is that; nothing is counted that is not sent, so it never gets beyond."""
        until(lambda: self._reached(name, value, **labels), 60, f"{name} {labels} to be {value}")

    def _reached(self, name: str, value: float, **labels: str) -> bool:
        now = total(self.look(), name, **labels)
        assert now <= value, f"{name} {labels} is {now}, not {value}: " + str(
            {key: n for key, n in self.last.items() if key[0] == "sagrada_gateway_requests_total"}
        )
        return now == value


@contextmanager
def running_in(folder: Path) -> Iterator[Fleet]:
    env = {"SERVED_MODEL_NAME": "scripted", "GATEWAY_WORKERS": "2"}
    with (
        serving(folder / "redis") as server,
        Fleet(server.url, folder, model="scripted?step=0.005", gateways=2, env=env) as running,
    ):
        everybody_knows(running.ready())
        yield running


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_in(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One for those that only look."""
    with running_in(tmp_path_factory.mktemp("unharmed")) as running:
        yield running


def everybody_knows(fleet: Fleet) -> None:
    """Whichever process answers, it has heard of a serving worker."""

    def ready() -> bool:
        return all(
            httpx.get(url + "/readyz").status_code == 200 for url in fleet.addresses for _ in range(30)
        )

    until(ready, 60, "all of them")


def body(prompt: str, tokens: int = 20, **parameters: Any) -> dict[str, Any]:
    return {"inputs": prompt, "parameters": {"max_new_tokens": tokens, "ignore_eos": True, **parameters}}


def generate(url: str, prompt: str = "a", tokens: int = 20, **parameters: Any) -> httpx.Response:
    return httpx.post(url + "/generate", json=body(prompt, tokens, **parameters), timeout=90)


def submit(url: str, tokens: int) -> str:
    return str(httpx.post(url + "/jobs", json=body("long", tokens), timeout=30).json()["id"])


def test_counts_are_what_was_sent_and_never_fall(fleet: Fleet) -> None:
    look = Scraper(fleet)
    look.look()
    for number in range(10):
        assert generate(fleet.addresses[number % 2]).status_code == 200
    assert generate(fleet.url, temperature=-1.0).status_code == 422
    assert generate(fleet.addresses[1], "!raise@3").status_code == 424
    producer = Celery(broker=fleet.redis_url, backend=fleet.redis_url, set_as_current=False)
    sent = producer.send_task("sagrada.generate", queue="sagrada.scripted", kwargs=body("b"))
    assert sent.get(timeout=60)
    producer.close()

    cancelled = submit(fleet.url, 4000)
    until(lambda: httpx.get(f"{fleet.url}/jobs/{cancelled}").json()["status"] == "in_progress", 30, "a start")
    assert httpx.post(f"{fleet.url}/jobs/{cancelled}/cancel").status_code == 200
    long = submit(fleet.addresses[1], 600)
    look.until("tgi_request_input_length_count", 14, model="scripted")
    look.until("tgi_request_success", 11, model="scripted")

    fleet.workers[0].kill()
    fleet.workers.pop(0).wait()
    told = look.look()  # what else the killed worker had counted is gone
    logged = sum(isinstance(event, Token) for event in Ledger(fleet.redis).read(long))
    fleet.start_worker()
    until(
        lambda: look.look() and httpx.get(f"{fleet.url}/jobs/{long}").json()["status"] == "completed",
        60,
        "it",
    )
    look.until("tgi_request_success", 12, model="scripted")
    fleet.workers[0].terminate()
    assert fleet.workers.pop(0).wait(60) == 0
    fleet.start_worker()
    everybody_knows(fleet.ready())
    assert generate(fleet.url).status_code == 200
    look.until("tgi_request_success", 13, model="scripted")
    look.until("tgi_request_count", 16)

    found = look.look()
    for err, count in (("validation", 1), ("generation", 1), ("dropped", 1), ("overloaded", 0)):
        assert total(found, "tgi_request_failure", err=err) == count
    assert (
        total(found, "tgi_request_input_length_count")
        == total(found, "tgi_request_max_new_tokens_count")
        == 15
    )
    assert (
        total(found, "tgi_request_duration_count") == total(found, "tgi_request_queue_duration_count") == 13
    )
    assert total(found, "tgi_request_validation_duration_count") == 14
    assert total(found, "sagrada_time_to_first_token_seconds_count") == 15
    for name in ("sagrada_tokens_total", "tgi_request_skipped_tokens_count"):
        assert total(found, name) == total(told, name) + (600 - logged) + 20, name
    assert total(found, "tgi_batch_inference_failure", method="decode") >= 1
    assert total(found, "sagrada_worker_starts_total") >= 2
    assert total(found, "sagrada_compilations_total") == 0
    assert total(found, "sagrada_leases_renewed_total") > 0
    assert total(found, "sagrada_gateway_requests_total", route="POST /generate", status="422") == 1


def test_a_gunicorn_process_takes_nothing_along(fleet: Fleet) -> None:
    look = Scraper(fleet)
    for _ in range(8):
        assert generate(fleet.url).status_code == 200
    look.until("tgi_request_count", 8)
    for pid in children(fleet.gateway.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: httpx.get(fleet.url + "/readyz").status_code == 200, 60, "another", despite=httpx.HTTPError)
    assert generate(fleet.url).status_code == 200
    look.until("tgi_request_count", 9)


def expressions() -> list[str]:
    """All that our dashboard and our alerts ask, its variables set to everything."""
    panels = json.loads(OURS.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    asked += re.findall(r"^ +expr: (.+)$", ALERTS.read_text(), re.MULTILINE)
    return [expression.replace("$model", ".*") for expression in asked]


def test_every_expression_finds_its_series(unharmed: Fleet) -> None:
    assert generate(unharmed.url).status_code == 200
    found = [(name, dict(labels)) for name, labels in scrape(unharmed.url)]
    ours = expressions()
    assert len(ours) > 25
    for expression in ours:
        chosen = list(selectors(expression))
        assert chosen, expression
        for selector in chosen:
            series = [labels for name, labels in found if selector.selects(name, labels)]
            assert series, f"{selector} of {expression}"
            by = grouped_by(expression)
            assert all(by <= labels.keys() for labels in series) or by == {"err"}, expression


def test_tgis_dashboard_finds_its_series(unharmed: Fleet) -> None:
    assert generate(unharmed.url).status_code == 200
    assert generate(unharmed.url, "").status_code == 422
    Scraper(unharmed).until("tgi_request_failure", 1)
    found = [(name, dict(labels)) for name, labels in scrape(unharmed.url)]
    for histogram, wanted in TGI_HISTOGRAMS:
        for part in ("bucket", "sum", "count"):
            series = [
                of for name, of in found if name == f"{histogram}_{part}" and wanted.items() <= of.items()
            ]
            assert series and all(("le" in of) == (part == "bucket") for of in series), (histogram, wanted)
    for number, by in TGI_NUMBERS.items():
        series = [of for name, of in found if name == number]
        assert series and any({*by} <= of.keys() for of in series), number
    # Of what it counts or adds up there must be one series, whoever the workers are: its means would add up else.
    for name in ("tgi_request_count", "tgi_request_generated_tokens_sum", "tgi_queue_size"):
        assert len([1 for n, _ in found if n == name]) == 1, name


def test_the_page_has_all_of_them(unharmed: Fleet) -> None:
    page = (DEPLOY.parent / "docs" / "api.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram) ", page, re.MULTILINE))
    text = httpx.get(unharmed.url + "/metrics", timeout=30).text
    assert documented == set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


def test_histograms_are_whole(unharmed: Fleet) -> None:
    assert generate(unharmed.url).status_code == 200
    found = scrape(unharmed.url)
    groups: dict[tuple[str, frozenset[tuple[str, str]]], dict[float, float]] = {}
    for (name, labels), value in found.items():
        if name.endswith("_bucket"):
            of = dict(labels)
            groups.setdefault((name[:-7], frozenset(labels - {("le", of["le"])})), {})[float(of["le"])] = (
                value
            )
    assert len(groups) > 15
    for (name, labels), buckets in groups.items():
        values = [buckets[bound] for bound in sorted(buckets)]
        assert values == sorted(values), name
        assert values[-1] == found[f"{name}_count", labels] and max(buckets) == float("inf")
        assert (found[f"{name}_sum", labels] > 0) <= (values[-1] > 0)
        if name.endswith("_duration"):
            assert sorted(buckets)[:-1] == list(DURATIONS) and len(buckets) == 36
    lengths = next(b for (name, _), b in groups.items() if name == "tgi_request_input_length")
    assert len(lengths) == 101 and sorted(lengths)[99] == pytest.approx(4095)
    sizes = next(b for (name, _), b in groups.items() if name == "tgi_batch_next_size")
    assert sorted(sizes)[:-1] == list(range(1, 1025))
