"""What schemathesis makes of our document: no answer is a server's fault, or one that the document does not tell."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
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


Kind: TypeAlias = APIOperation[Any, Any, Any, Any]
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)]


def ask(operation: Kind, url: str, requests: int) -> None:
    """So many requests, the same ones every time."""

    @hypothesis.settings(
        max_examples=requests,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)

    check()


# By pytest's own marks: with those of schemathesis all operations have one id, and of such tests xdist runs one.
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
class TestRequestsOfEveryKind:
    def test_a_few(self, operation: Kind, gateway: GatewayProcess, brief: FakeWorker) -> None:
        ask(operation, gateway.url, 3)

    @pytest.mark.full
    def test_many(self, operation: Kind, gateway: GatewayProcess, brief: FakeWorker) -> None:
        ask(operation, gateway.url, 100)
