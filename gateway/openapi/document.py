"""The OpenAPI 3.1 document, out of the structs that validate requests and make answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.auth import is_open
from gateway.openapi.operation import SSE, Answer, Either, Operation, Parameter
from gateway.openapi.sentences import sentences

ABOUT = (
    "TGI's and OpenAI's APIs, and a job's own: submit, look, wait, stream, resume, cancel. "
    "Unknown fields of a request are ignored."
)
_VARIABLE = re.compile(r"<(?:\w+:)?(\w+)>")


def build(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The document of these operations."""
    types = [*dict.fromkeys(each for operation in operations for each in _types(operation))]
    made, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(types, made, strict=True))
    _tell_fields(types, components)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _VARIABLE.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sagrada",
            "version": version,
            "description": ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # The second: a gateway without keys asks nobody for one.
        "security": [{"key": []}, {}],
    }


def _types(operation: Operation) -> Iterator[Any]:
    bodies = [
        operation.body,
        *(each for answer in operation.answers.values() for each in answer.content.values()),
    ]
    for body in bodies:
        if body is not None:
            yield from body.types if isinstance(body, Either) else [body]


def _schema(body: Any, schemas: dict[Any, Any]) -> Any:
    if isinstance(body, Either):
        return {"anyOf": [schemas[each] for each in body.types]}
    return schemas[body]


def _tell_fields(types: Sequence[Any], components: dict[str, Any]) -> None:
    """Put each field's sentence into its schema."""
    for struct in _structs(msgspec.inspect.multi_type_info(types)):
        full = f"{struct.__module__}.{struct.__qualname__}"
        properties = components[full if full in components else struct.__name__]["properties"]
        for name, text in sentences(struct).items():
            properties[name].setdefault("description", text)


def _structs(types: Sequence[Any]) -> list[type[msgspec.Struct]]:
    """Every struct that these types are made of."""
    found: dict[type[msgspec.Struct], None] = {}
    waiting = [*types]
    while waiting:
        match waiting.pop():
            case msgspec.inspect.StructType(cls=cls, fields=fields):
                if cls not in found:
                    found[cls] = None
                    waiting += [field.type for field in fields]
            case msgspec.inspect.Metadata(type=inner):
                waiting.append(inner)
            case msgspec.inspect.UnionType(types=inner):
                waiting += inner
            case msgspec.inspect.ListType(item_type=inner) | msgspec.inspect.VarTupleType(item_type=inner):
                waiting.append(inner)
            case msgspec.inspect.TupleType(item_types=inner):
                waiting += inner
            case msgspec.inspect.DictType(value_type=inner):
                waiting.append(inner)
    return [*found]


def _operation(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.says,
        "description": operation.more,
        "parameters": [_parameter(each) for each in operation.parameters],
        "responses": {str(status): _answer(each, schemas) for status, each in operation.answers.items()},
    }
    if operation.body is not None:
        examples = {name: {"value": value} for name, value in operation.examples.items()}
        content = {"schema": _schema(operation.body, schemas), "examples": examples}
        told["requestBody"] = {"required": True, "content": {"application/json": _told(content)}}
    if is_open(operation.method.upper(), operation.path):
        told["security"] = []
    return _told(told)


def _told(about: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing; that no key is needed says something."""
    return {name: value for name, value in about.items() if value or name == "security"}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.says,
        "required": parameter.place == "path",
        "schema": parameter.schema,
    }


def _answer(answer: Answer, schemas: dict[Any, Any]) -> dict[str, Any]:
    headers = {
        name: {"description": says, "schema": {"type": "string"}} for name, says in answer.headers.items()
    }
    content = {
        media: {"schema": _body(media, _schema(each, schemas))} for media, each in answer.content.items()
    }
    return {"description": answer.says} | _told({"headers": headers, "content": content})


def _body(media: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body: of a stream, that of one event, as OpenAPI 3.2's `itemSchema`; 3.1 has no word for it."""
    if media != SSE:
        return schema
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}
