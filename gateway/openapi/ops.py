"""What operators and load balancers ask, for the document."""

from __future__ import annotations

from gateway.openapi.operation import JSON, TEXT, Answer, Operation, refusals
from gateway.ops import Alive, Ready

TAG = "Operation"

OPERATIONS = (
    Operation(
        method="get",
        path="/livez",
        tag=TAG,
        says="Is the gateway alive?",
        answers={200: Answer("It is.", {JSON: Alive})},
    ),
    Operation(
        method="get",
        path="/readyz",
        tag=TAG,
        says="Is any model served?",
        answers={200: Answer("These are.", {JSON: Ready}), **refusals(503)},
    ),
    Operation(
        method="get",
        path="/metrics",
        tag=TAG,
        says="Prometheus metrics",
        answers={200: Answer("All metrics, in Prometheus' text format.", {TEXT: str})},
    ),
)
