"""What /v1/models tells."""

from __future__ import annotations

from gateway.fleet import Model
from gateway.openai.shapes import ModelCard, ModelList
from gateway.service import Gateway


def every(gateway: Gateway) -> ModelList:
    """The models that are served, of those that the caller may use; the one that answers unnamed comes first."""
    serving = [worker for worker in gateway.fleet.visible() if worker.state == "serving"]
    first = sorted(serving, key=lambda w: (w.started, w.boot))
    names = dict.fromkeys(worker.model for worker in first)
    return ModelList(data=[card(gateway.fleet.model(name)) for name in names])


def one(gateway: Gateway, name: str) -> ModelCard:
    """A model by its name; ModelNotFound, ModelUnavailable."""
    return card(gateway.fleet.model(name))


def card(model: Model) -> ModelCard:
    """What a client is told of it."""
    return ModelCard(
        id=model.name,
        created=int(model.one.started),
        owned_by=model.name,
        max_model_len=model.limits.max_total_tokens,
    )
