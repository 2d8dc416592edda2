"""/openapi.json, and /docs with its assets: nothing is fetched from elsewhere, and no script stands in the page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import flask_swagger_ui
import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from gateway.detach import hand_over
from gateway.openapi import jobs, openai, ops, tgi
from gateway.openapi.document import build
from gateway.service import Gateway
from gateway.version import version

OPERATIONS = (*tgi.OPERATIONS, *openai.OPERATIONS, *jobs.OPERATIONS, *ops.OPERATIONS)

HERE = Path(__file__).parent
SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"

ASSETS = {
    "swagger-ui.css": (SWAGGER_UI, "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": (SWAGGER_UI, "text/javascript; charset=utf-8"),
    "favicon-32x32.png": (SWAGGER_UI, "image/png"),
    "start.js": (HERE, "text/javascript; charset=utf-8"),
}
"""File → its folder and its content type."""

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Swagger UI's pictures are data in its style sheet."""

PAGE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
FRESH = {"Cache-Control": "max-age=3600", "X-Content-Type-Options": "nosniff"}


@cache
def document() -> bytes:
    """The OpenAPI document."""
    return msgspec.json.encode(build(OPERATIONS, version()))


@cache
def asset(name: str) -> tuple[bytes, str]:
    """(Content, content type) of a file of the page; NotFound."""
    if name not in ASSETS:
        raise NotFound
    folder, content_type = ASSETS[name]
    return (folder / name).read_bytes(), content_type


def blueprint(gateway: Gateway) -> Blueprint:
    """The document and the page over it."""
    routes = Blueprint("openapi", __name__)
    routes.after_request(lambda response: hand_over(gateway.poller, request.environ, response))

    @routes.get("/openapi.json")
    @routes.get("/api-doc/openapi.json")
    def get_document() -> Response:
        return Response(document(), content_type="application/json", headers=FRESH)

    @routes.get("/docs")
    def get_page() -> Response:
        page = (HERE / "docs.html").read_bytes()
        return Response(page, content_type="text/html; charset=utf-8", headers=PAGE)

    @routes.get("/docs/<name>")
    def get_asset(name: str) -> Response:
        content, content_type = asset(name)
        return Response(content, content_type=content_type, headers=FRESH)

    return routes
