"""The OpenAPI document: it tells of every route, refers to nothing that is not there, and says what fields mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest

from gateway.app import create_app
from gateway.config import Config
from gateway.openapi.document import build
from gateway.openapi.routes import ASSETS, OPERATIONS, PAGE, SWAGGER_UI, asset, document
from gateway.openapi.sentences import sentences
from sagrada.embedded import free_port
from wire.job import SamplingParams

UNTOLD = {
    ("get", "/openapi.json"): "the document itself",
    ("get", "/api-doc/openapi.json"): "the document itself, where TGI has it",
    ("get", "/docs"): "a page for people",
    ("get", "/docs/<name>"): "its files",
}
"""Routes that the document leaves out, and why."""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return dict(json.loads(document()))


def test_every_route_is_told_and_no_other() -> None:
    app, _ = create_app(Config(redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    routes = {
        (method.lower(), rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes - UNTOLD.keys() == {(operation.method, operation.path) for operation in OPERATIONS}
    assert routes > UNTOLD.keys()


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from nodes(each)


def test_what_it_refers_to_is_there(told: dict[str, Any]) -> None:
    names = {node["$ref"] for node in nodes(told) if "$ref" in node}
    assert names == {f"#/components/schemas/{name}" for name in told["components"]["schemas"]}


def test_its_schemas_are_schemas(told: dict[str, Any]) -> None:
    assert "jsonSchemaDialect" not in told, "Swagger UI warns of any, and the default is draft 2020-12 too"
    for name, schema in told["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description"), f"{name} has no sentence"


def test_every_operation_says_what_it_does_and_may_answer(told: dict[str, Any]) -> None:
    operations = [each for path in told["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    for each in operations:
        assert each["summary"] and each["tags"] and each["responses"]
        assert all(answer["description"] for answer in each["responses"].values())
    for path, methods in told["paths"].items():
        variables = set(re.findall(r"{(\w+)}", path))
        for each in methods.values():
            assert variables == {p["name"] for p in each.get("parameters", []) if p["in"] == "path"}


def test_the_examples_are_what_the_schemas_ask_for(told: dict[str, Any]) -> None:
    for path, methods in told["paths"].items():
        if "post" not in methods or "requestBody" not in methods["post"]:
            continue
        content = methods["post"]["requestBody"]["content"]["application/json"]
        assert content["examples"], path
        validator = jsonschema.Draft202012Validator(
            content["schema"] | {"components": told["components"]}  # where its references point
        )
        for example in content["examples"].values():
            validator.validate(example["value"])


def test_fields_have_the_sentences_below_them(told: dict[str, Any]) -> None:
    written = sentences(SamplingParams)
    assert written["min_p"] == "Drop tokens less likely than this share of the likeliest, [0, 1)."
    assert (
        written["min_new_tokens"].startswith("So many tokens come before")
        and "\n" not in written["min_new_tokens"]
    )
    request = told["components"]["schemas"]["GenerateRequest"]["properties"]
    assert request["ttl"]["description"] == "Seconds from submission to the deadline."


def test_a_struct_without_source_or_sentences_is_told_without() -> None:
    made = msgspec.defstruct("Made", [("a", int)])
    assert sentences(made) == {}
    assert build([], "0")["paths"] == {}


def test_the_page_takes_nothing_from_elsewhere() -> None:
    policy = PAGE["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for name in ASSETS:
        content, _ = asset(name)
        assert content, name
    assert b'"use strict"' in asset("start.js")[0] and b"SwaggerUIBundle" in asset("swagger-ui-bundle.js")[0]
    assert SWAGGER_UI.is_dir()
