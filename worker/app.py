"""The Celery app. `python -m worker` starts it; a plain `celery -A worker.app worker` works as well."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery import Celery, signals
from celery.app.task import Task
from celery.worker.request import Request
from msgspec import to_builtins

from wire.backend import backend_settings
from wire.errors import SagradaError
from wire.keys import TASK_NAME
from wire.transport import broker_url
from worker.assignment import Completed
from worker.config import Config, load
from worker.pool import outcomes
from worker.process import WorkerProcess
from worker.results import BACKENDS
from worker.seat import Seat, take

SILENCE = 5
"""Seconds that Celery's connections wait for a Redis that says nothing before they are made anew."""


class QuietRequest(Request):
    """A producer's message may describe its arguments for people: they are prompts, and nobody's business."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Celery's, then the descriptions are dropped: logs, events and Flower show nothing."""
        super().__init__(*args, **kwargs)
        self._argsrepr = self._kwargsrepr = ""
        self._request_dict.update(argsrepr="", kwargsrepr="")

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `celery inspect` shows, arguments left out."""
        shown: dict[str, Any] = super().info(safe=True)
        return shown


class GenerateTask(Task):
    """What Celery's tracer runs when the engine has done the work."""

    name = TASK_NAME
    throws = (SagradaError,)
    """A job that failed is no error of the worker's: one line in the log, no traceback."""
    Request = "worker.app:QuietRequest"
    resultrepr_maxsize = 0
    """The text is not for logs and events."""

    def run(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The result that is known already; raises the error that is."""
        outcome = outcomes[self.request.id]
        if isinstance(outcome, Completed):
            return to_json(outcome)
        raise outcome.error


class App(Celery):
    """Celery with the worker's settings at hand: the pool is made by name and finds them here."""

    def __init__(self, config: Config) -> None:
        """An app that serves `config`'s model."""
        super().__init__("sagrada", set_as_current=True)
        self.config = config
        self.process: WorkerProcess | None = None
        """Set by the pool; None in a process that only sends."""
        self.loader.override_backends = dict(BACKENDS)
        self.conf.update(settings(config))
        self.register_task(GenerateTask())

    @cached_property
    def seat(self) -> Seat:
        """The worker's card, taken when it is first asked for: a process that only sends takes none. CardError."""
        return take(self.config)


def to_json(outcome: Completed) -> dict[str, Any]:
    """The result as any client's JSON reads it."""
    result = outcome.result
    usage = result.usage
    return {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "seed": result.seed,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        **({"choices": to_builtins(result.choices)} if result.choices else {}),
    }


def settings(config: Config) -> dict[str, Any]:
    """Celery's configuration."""
    return {
        "broker_url": broker_url(config.redis_url),
        **backend_settings(config.redis_url),
        "result_expires": config.result_ttl,
        # Any producer's message is read, and every producer reads the result: JSON is Celery's default for both.
        "accept_content": ["json", "msgpack"],
        "result_serializer": "json",
        "task_default_queue": config.task_queue,
        "task_acks_late": True,
        "task_track_started": False,
        "worker_pool": "worker.pool:EnginePool",
        "worker_concurrency": config.slots,
        # The engine says how many it takes, message by message (Owner.room).
        "worker_prefetch_multiplier": 0,
        # A sixth of the parent's work: Flower and `celery events` switch them on while they look.
        "worker_send_task_events": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A Redis whose machine is gone says nothing any more, not even that it is gone.
        "broker_transport_options": {
            "socket_timeout": SILENCE,
            "socket_connect_timeout": SILENCE,
            "health_check_interval": SILENCE,
            "socket_keepalive": True,
        },
        "redis_socket_timeout": SILENCE,
        "redis_socket_connect_timeout": SILENCE,
        "redis_socket_keepalive": True,
        "redis_retry_on_timeout": True,
        # A result that is not stored is a producer that waits for ever: the finisher tries until Redis is back.
        "result_backend_always_retry": True,
        "result_backend_max_sleep_between_retries_ms": 1000,
    }


@signals.task_revoked.connect  # type: ignore[untyped-decorator]
def _end_record(sender: Any = None, request: Any = None, **_: Any) -> None:
    """A message revoked through Celery ends its job in the ledger, too."""
    process: WorkerProcess | None = getattr(sender.app, "process", None)
    if process:
        process.cancel(request.id)


def __getattr__(name: str) -> App:
    """`app`, made from the environment when `celery -A worker.app` asks for it."""
    if name == "app":
        return App(load())
    raise AttributeError(name)
