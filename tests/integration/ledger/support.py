"""Jobs in every state, and a plain subscriber."""

from __future__ import annotations

from typing import Any

from redis import Redis

from wire.codec import decode_event
from wire.commands import Claimed, Outcome
from wire.events import Done, Token
from wire.job import Job, Result, SamplingParams, Usage, new_job_id
from wire.keys import channel, job_key, log_key
from wire.ledger import Ledger


def token(seq: int, attempt: int) -> Token:
    """Token `seq` of every job; the logprob tells which attempt made it."""
    return Token(seq=seq, index=seq, id=1000 + seq, text=f" {seq}", logprob=float(attempt), special=False)


def make_job(ttl: float = 60.0) -> Job:
    params = SamplingParams(max_new_tokens=5, seed=7)
    return Job(id=new_job_id(), model="m", params=params, ids=(1, 2, 3), ttl=ttl)


def submitted(ledger: Ledger, ttl: float = 60.0) -> Job:
    job = make_job(ttl)
    ledger.submit(job, "sagrada.m")
    return job


def claimed(ledger: Ledger, job: Job, boot: str = "a") -> Claimed:
    reply = ledger.claim(job.id, boot)
    assert isinstance(reply, Claimed)
    return reply


def end_of(count: int) -> tuple[Done, Result]:
    usage = Usage.of(3, count)
    text = "".join(f" {n}" for n in range(count))
    return (
        Done(seq=count, finish_reason="length", seed=7, usage=usage),
        Result(text=text, finish_reason="length", seed=7, usage=usage),
    )


def completed(ledger: Ledger) -> Job:
    job = submitted(ledger)
    attempt = claimed(ledger, job).attempt
    end, result = end_of(2)
    assert ledger.finish(job.id, attempt, end, result, [token(0, 1), token(1, 1)]).outcome is Outcome.OK
    return job


def live_keys(redis: Redis, job: Job) -> dict[str, int]:
    client: Any = redis
    keys = (job_key(job.id), log_key(job.id))
    return {key: client.pttl(key) for key in keys}


class Heard:
    """A plain subscriber, from now on."""

    def __init__(self, redis: Redis, job: Job) -> None:
        client: Any = redis
        self.pubsub = client.pubsub(ignore_subscribe_messages=True)
        self.pubsub.subscribe(channel(job.id))
        self.pubsub.get_message(timeout=5)

    def events(self, count: int) -> list[Any]:
        """The next `count` events, waiting for them; then whatever else is there."""
        out: list[Any] = []
        while message := self.pubsub.get_message(timeout=5 if len(out) < count else 0):
            out.append(decode_event(message["data"]))
        self.pubsub.close()
        return out
