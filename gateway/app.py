"""The Flask application: routes, error answers, and the gateway behind them."""

from __future__ import annotations

from flask import Flask

from gateway import errors, jobs, ops, tgi
from gateway.config import Config
from gateway.service import Gateway


def create_app(config: Config) -> tuple[Flask, Gateway]:
    """A started gateway and its application; once per process, after the fork."""
    app = Flask("gateway", static_folder=None)
    gateway = Gateway(config)
    errors.install(app)
    for room in (jobs, tgi, ops):
        app.register_blueprint(room.blueprint(gateway))
    gateway.start()
    return app, gateway
