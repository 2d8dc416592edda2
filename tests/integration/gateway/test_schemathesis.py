"""What schemathesis makes of our document: no answer is a server's fault, or one that the document does not tell."""

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
from tests.integration.gateway.conftest import GatewayProcess
from tests.integration.gateway.fake import FakeWorker

CONFIG = schemathesis.Config.from_dict({"phases": {"coverage": {"enabled": False}}})
"""Without the hundreds of requests of the phase that bounds are tried in: test_fuzz.py has its own."""
SCHEMA = schemathesis.openapi.from_dict(json.loads(document()), config=CONFIG)
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


def call(case: Any, url: str) -> None:
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)


@SCHEMA.parametrize()
@settings(3)
def test_a_few_requests_of_every_kind(case: Any, gateway: GatewayProcess, brief: FakeWorker) -> None:
    call(case, gateway.url)


@pytest.mark.full
@SCHEMA.parametrize()
@settings(100)
def test_many_requests_of_every_kind(case: Any, gateway: GatewayProcess, brief: FakeWorker) -> None:
    call(case, gateway.url)
