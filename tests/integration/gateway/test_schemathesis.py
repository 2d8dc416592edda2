"""What schemathesis makes of our document: no answer is a server's fault, and none is one that the document does not tell."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.openapi.routes import document
from tests.integration.gateway.fake import FakeWorker

SCHEMA = schemathesis.openapi.from_dict(json.loads(document()))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def settings(examples: int) -> hypothesis.settings:
    """Seeded: the same requests every time."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


def call(case: Any, url: str, worker: FakeWorker) -> None:
    worker.step = 0.0002
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)


@SCHEMA.parametrize()
@settings(3)
def test_a_few_requests_of_every_kind(case: Any, url: str, worker: FakeWorker) -> None:
    call(case, url, worker)


@pytest.mark.full
@SCHEMA.parametrize()
@settings(100)
def test_many_requests_of_every_kind(case: Any, url: str, worker: FakeWorker) -> None:
    call(case, url, worker)
