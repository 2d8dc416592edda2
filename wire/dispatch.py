"""How a recorded job's message is sent: by the gateway that accepted it, and by a reconciler that found it nowhere."""

from __future__ import annotations

from typing import Any

from wire.job import Job
from wire.keys import TASK_NAME
from wire.transport import PRIORITY_HEADER, TENANT_HEADER

SEND_RETRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
"""One more try: the pooled connection may be stale. The queue takes a message once, however often it is put."""


def dispatch(app: Any, job: Job, queue: str) -> None:
    """Queue the job's id through the Celery `app`; the prompt stays in the record. Raises what kombu raises."""
    app.send_task(
        TASK_NAME,
        task_id=job.id,
        queue=queue,
        # A header: kombu's priority of 0 means that none was given.
        headers={PRIORITY_HEADER: job.priority, TENANT_HEADER: job.tenant},
        argsrepr="",
        kwargsrepr="",
        ignore_result=True,
        retry_policy=SEND_RETRY,
    )
