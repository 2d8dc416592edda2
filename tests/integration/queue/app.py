"""The Celery app of the queue's tests; fleet.py sets the environment that it reads."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

from tests.integration.queue import sleeping
from wire import transport

QUEUE = "sagrada.test"
STOCK = os.environ.get("QUEUE_TEST_STOCK") == "1"  # kombu's own transport, for comparison
VIA = os.environ.get("QUEUE_TEST_VIA", sleeping.REDIS_URL)

app = Celery("queue-test")
app.conf.update(
    broker_url=VIA if STOCK else transport.broker_url(VIA),
    result_backend=sleeping.REDIS_URL,
    task_default_queue=os.environ.get("QUEUE_TEST_DEFAULT", QUEUE),
    worker_pool="tests.integration.queue.sleeping:SleepPool",
    worker_concurrency=int(os.environ.get("QUEUE_TEST_SLOTS", "8")),
    worker_prefetch_multiplier=int(STOCK),
    task_acks_late=True,
    result_backend_always_retry=True,  # else a job that ends while Redis is away ends in FAILURE
    result_backend_max_retries=1000,
    result_backend_base_sleep_between_retries_ms=50,
    result_backend_max_sleep_between_retries_ms=500,
    accept_content=["json", "msgpack"],
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_send_task_events=True,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@signals.celeryd_init.connect
def own_boot(**_: Any) -> None:
    if os.environ.get("QUEUE_TEST_RESYNC") == "0":  # the negative control
        type(sleeping.boot)._resync = property(lambda boot: False, lambda boot, value: None)  # type: ignore[assignment]
    if not STOCK:
        transport.set_owner(sleeping.boot)
        sleeping.boot.start()


@app.task(name="job")
def job(s: float = 0, mark: Any = None) -> Any:
    return mark


@app.task(name="flaky", bind=True, max_retries=3)
def flaky(self: Any, s: float = 0) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)
    return int(self.request.retries)
