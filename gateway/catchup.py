"""Reads the logs of the subscribers that need them, many in one pipeline, in a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time

import redis

from gateway.subscriber import Presence, Subscriber
from wire.keys import gone_key, job_key
from wire.ledger import read_many

log = logging.getLogger("sagrada.gateway")

BATCH = 256
"""Logs read in one pipeline."""

PAUSE = 0.5
"""Seconds between two attempts while Redis is away."""


class CatchUp:
    """Every subscriber given to `want` gets what its log holds, sooner or later."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._wanted: queue.SimpleQueue[Subscriber] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin; once per process, after the fork."""
        threading.Thread(target=self._run, name="logs", daemon=True).start()

    def want(self, subscriber: Subscriber) -> None:
        """Read this subscriber's log soon."""
        self._wanted.put(subscriber)

    def _batch(self) -> list[Subscriber]:
        batch = [self._wanted.get()]
        while len(batch) < BATCH and not self._wanted.empty():
            batch.append(self._wanted.get())
        return batch

    def _run(self) -> None:
        while True:
            batch = self._batch()
            try:
                self._read(batch)
            except redis.RedisError as error:
                log.warning("cannot read %d logs, trying again: %s", len(batch), error)
                time.sleep(PAUSE)
                for subscriber in batch:
                    self.want(subscriber)
            except Exception:  # a log that cannot be read must not end the reading of all others
                log.exception("reading logs failed, %d streams are let go", len(batch))
                for subscriber in batch:
                    subscriber.abandon()

    def _read(self, batch: list[Subscriber]) -> None:
        after: dict[str, int] = {}
        for subscriber in batch:
            known = subscriber.reader.after
            after[subscriber.job_id] = min(known, after.get(subscriber.job_id, known))
        logs = read_many(self._redis, after)
        presence = self._presence([job_id for job_id, events in logs.items() if not events])
        for subscriber in batch:
            subscriber.logged(logs[subscriber.job_id], presence.get(subscriber.job_id, "there"))

    def _presence(self, job_ids: list[str]) -> dict[str, Presence]:
        """What is known of jobs whose log has nothing new: maybe only that nobody has claimed them yet."""
        pipe = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.exists(job_key(job_id))
            pipe.exists(gone_key(job_id))
        answers = iter(pipe.execute())
        return {
            job_id: "there" if exists else "deleted" if tombstone else "lost"
            for job_id, exists, tombstone in zip(job_ids, answers, answers, strict=True)
        }
