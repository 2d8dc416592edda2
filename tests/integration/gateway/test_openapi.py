"""The document and its page as they are served, and the document's examples, sent."""

from __future__ import annotations

import re

import pytest

from gateway.openapi.operation import Operation
from gateway.openapi.routes import OPERATIONS
from tests.integration.gateway.client import http
from tests.integration.gateway.fake import FakeWorker

EXAMPLES = [
    pytest.param(operation, name, id=f"{operation.path} {name}")
    for operation in OPERATIONS
    for name in operation.examples
]


def test_one_document_at_two_addresses(url: str, worker: FakeWorker) -> None:
    ours, tgis = http.get(url + "/openapi.json"), http.get(url + "/api-doc/openapi.json")
    assert ours.status_code == 200 and ours.headers["content-type"] == "application/json"
    assert ours.json()["openapi"].startswith("3.1") and ours.content == tgis.content


def test_the_page_and_its_files_come_from_here(url: str, worker: FakeWorker) -> None:
    page = http.get(url + "/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "://" not in page.text and not re.search(r"<script>|<style|style=| on\w+=", page.text)
    names = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(names) == 4
    for name in names:
        file = http.get(f"{url}/{name}")
        assert (
            file.status_code == 200 and file.content and file.headers["x-content-type-options"] == "nosniff"
        )
    assert http.get(url + "/docs/../app.py").status_code == 404
    assert http.get(url + "/docs/oauth2-redirect.html").status_code == 404


@pytest.mark.parametrize(("operation", "name"), EXAMPLES)
def test_the_examples_work(url: str, worker: FakeWorker, operation: Operation, name: str) -> None:
    answer = http.request(operation.method, url + operation.path, json=operation.examples[name])
    assert answer.status_code in (200, 202), answer.text
    media = answer.headers["content-type"].partition(";")[0]
    assert media in operation.answers[answer.status_code].content
