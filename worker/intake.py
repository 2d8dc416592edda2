"""What takes a while before a job can run, on a thread of its own: loading the tokenizer, reading, tokenising."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from wire.errors import SagradaError, ValidationError
from wire.job import Job
from wire.registry import Registry
from wire.request import RequestLimits, fit, from_call, to_job
from wire.tokenizer import Tokenizer, read_files
from worker.link import Ready

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shop:
    """All that an engine's readiness brings: what this process needs to serve its model."""

    engine: int
    """Which start of the engine it belongs to."""
    ready: Ready
    model: str
    """The served name."""
    tokenizer: Tokenizer
    blob: str
    """Digest of the published tokenizer files."""

    @property
    def limits(self) -> RequestLimits:
        """What requests may ask for."""
        return RequestLimits(
            max_input_tokens=self.ready.max_input_tokens,
            max_total_tokens=self.ready.max_total_tokens,
            watermark=self.ready.watermark,
        )

    def read(self, job_id: str, body: tuple[Any, Any]) -> Job:
        """The job of a message that carries its request; ValidationError."""
        args, kwargs = body
        request = from_call(args, kwargs)
        if request.model not in (None, "", self.model):
            raise ValidationError(f"this queue serves {self.model!r}. Given: `model` {request.model!r}")
        return to_job(request, self.limits, job_id=job_id, model=self.model, encode=self.tokenizer.encode)

    def tokenise(self, job: Job) -> Job:
        """The job with its prompt's ids; ValidationError if they are too many."""
        return fit(job, self.tokenizer.encode(job.inputs or "", job.add_special_tokens), self.limits)


class Intake:
    """Runs such things one after another and reports to the publisher's inbox."""

    def __init__(self, registry: Registry, model: str, report: Callable[[Callable[[], None]], None]) -> None:
        """`report` has a call made on the publisher's thread."""
        self._registry, self._model, self._report = registry, model, report
        self._thread = ThreadPoolExecutor(1, "intake")
        self._stopped = False

    def open(self, engine: int, ready: Ready, then: Callable[[Shop | SagradaError], None]) -> None:
        """Load and publish the tokenizer of an engine that is ready."""
        self._thread.submit(self._run, lambda: self._open(engine, ready), then)

    def do(self, work: Callable[[], Job], then: Callable[[Job | SagradaError], None]) -> None:
        """Read or tokenise; `then` gets the job or the ValidationError, on the publisher's thread."""
        self._thread.submit(self._run, work, then)

    def stop(self) -> None:
        """Drop what waits."""
        self._stopped = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        try:
            answer = work()
        except SagradaError as error:
            answer = error
        except Exception as error:  # whatever a prompt does to a tokenizer costs that job alone
            log.warning("intake failed: %s", type(error).__name__)
            answer = ValidationError(f"the request cannot be read: {type(error).__name__}")
        self._report(lambda: then(answer))

    def _open(self, engine: int, ready: Ready) -> Shop:
        files = read_files(ready.folder)
        tokenizer = Tokenizer.from_files(files)
        while True:
            try:
                return Shop(engine, ready, self._model, tokenizer, self._registry.put_blob(files))
            except RedisError as error:
                if self._stopped:
                    raise SagradaError("stopped") from error
                log.warning("cannot publish the tokenizer (%s): trying again", error)
                time.sleep(0.5)
