"""What the workers say of themselves, read from the registry at most once a second."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import redis

from gateway.auth import caller
from wire.errors import ModelNotFound, ModelUnavailable
from wire.registry import Registry, WorkerInfo
from wire.request import RequestLimits
from wire.tokenizer import Tokenizer

FRESH = 1.0
"""Seconds that a snapshot is good for; as long, that Redis was away."""

MEMORY = 300.0
"""Seconds that a model is known after its last worker was seen: one that restarts is unavailable, not unknown."""

MAX_TOKENIZERS = 8
"""Tokenizers kept; the one used longest ago goes first."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is served now, by one or more workers that agree on its text."""

    name: str
    queue: str
    workers: tuple[WorkerInfo, ...]
    """Those that are serving."""

    @property
    def one(self) -> WorkerInfo:
        """A worker that speaks for all: the one that has served longest."""
        return min(self.workers, key=lambda w: (w.started, w.boot))

    @property
    def limits(self) -> RequestLimits:
        """What every worker takes."""
        return RequestLimits(
            max_input_tokens=min(w.max_input_tokens for w in self.workers),
            max_total_tokens=min(w.max_total_tokens for w in self.workers),
            watermark=all(w.watermark for w in self.workers),
        )


class Fleet:
    """The registry, cached. Raises what Redis raises, but asks a Redis that is away only once a second."""

    def __init__(self, client: redis.Redis) -> None:
        self._registry = Registry(client)
        self._lock = threading.Lock()
        self._workers: list[WorkerInfo] = []
        self._error: redis.RedisError | None = None
        self._read_at = float("-inf")
        self._seen: dict[str, float] = {}
        self._tokenizers: dict[str, Tokenizer] = {}

    def workers(self) -> list[WorkerInfo]:
        """Every worker that lives, whatever its state."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH:
                self._refresh()
            if self._error is not None:
                raise self._error
            return self._workers

    def _refresh(self) -> None:
        try:
            self._workers, self._error = self._registry.list(), None
        except redis.RedisError as error:
            self._error = error
        self._read_at = now = time.monotonic()
        self._seen = {name: at for name, at in self._seen.items() if now - at < MEMORY}
        self._seen |= {w.model: now for w in self._workers}

    def visible(self) -> list[WorkerInfo]:
        """The workers of the models that whoever asks may use: of the others they hear nothing."""
        who = caller()
        return [w for w in self.workers() if who.may_use(w.model)]

    def model(self, name: str | None) -> Model:
        """The model of that name, or the first one if None; ModelNotFound, or ModelUnavailable with the reason."""
        workers = self.visible()
        if name is None:
            name = first_model(workers)
        known = [w for w in workers if w.model == name]
        if not known and name in self._seen and caller().may_use(name):
            raise ModelUnavailable(
                f"the workers of the model {name!r} are gone; maybe they are starting again"
            )
        if not known:
            served = ", ".join(sorted({w.model for w in workers})) or "none at all"
            raise ModelNotFound(f"no worker serves the model {name!r}; known are: {served}")
        serving = tuple(w for w in known if w.state == "serving")
        if not serving:
            raise ModelUnavailable(reason(known))
        return Model(serving[0].model, serving[0].queue, serving)

    def tokenizer(self, model: Model) -> Tokenizer:
        """The model's tokenizer, from the blob that its worker published."""
        digest = model.one.tokenizer
        with self._lock:
            found = self._tokenizers.pop(digest, None)
            if found is None:
                files = self._registry.get_blob(digest)
                if files is None:
                    raise ModelUnavailable(f"the tokenizer of {model.name!r} is not published yet")
                found = Tokenizer.from_files(files)
            self._tokenizers[digest] = found  # a dict keeps the order of insertion: the oldest is first
            while len(self._tokenizers) > MAX_TOKENIZERS:
                del self._tokenizers[next(iter(self._tokenizers))]
            return found


def first_model(workers: list[WorkerInfo]) -> str:
    """The model served when none is named: of those serving, the one served longest."""
    if not workers:
        raise ModelUnavailable("no worker runs whose model you may use: start one with `sagrada worker`")
    return min(workers, key=lambda w: (w.state != "serving", w.started, w.boot)).model


def reason(workers: list[WorkerInfo]) -> str:
    """Why none of these workers serves, in a sentence."""
    for w in workers:
        if w.state == "loading":
            return f"the model {w.model!r} is loading: {w.stage or 'starting'}, {w.progress:.0%}"
    for w in workers:
        if w.state == "failed":
            return f"the model {w.model!r} failed to load: {w.error or 'its worker gave no reason'}"
    return f"the model {workers[0].model!r} is going away: its workers are draining"
