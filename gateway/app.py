"""The Flask application: routes, error answers, and the gateway behind them."""

from __future__ import annotations

from flask import Flask

from gateway import body, errors, jobs, ops, rates
from gateway.auth import Gate
from gateway.config import Config
from gateway.cors import Cors
from gateway.openai import routes as openai
from gateway.openapi import routes as openapi
from gateway.service import Gateway
from gateway.tgi import routes as tgi
from wire.apikeys import ApiKeys


def create_app(config: Config) -> tuple[Flask, Gateway]:
    """The application and the gateway behind it, which is still to be started."""
    app = Flask("gateway", static_folder=None)
    gateway = Gateway(config)
    errors.install(app)
    body.install(app, config.max_body_bytes)
    Cors(config.cors_allow_origin).install(app)
    Gate(config, ApiKeys(gateway.redis)).install(app)
    rates.install(app)
    for api in (jobs, tgi, openai, ops, openapi):
        app.register_blueprint(api.blueprint(gateway))
    return app, gateway
